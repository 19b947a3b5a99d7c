# All that is needed is python3 (3.10 or later): the virtual environment is made on the way, once, and brought up
# to date when pyproject.toml has changed.
#
#   make test PYTHON=python3.12 VENV=.venv-3.12     another interpreter, with an environment of its own
#   make test TESTS=tests/unit ARGS='-x -q'         some of the tests, with options for pytest
#   make matrix N=20 ARGS='-k uWSGI'                some of the scenarios, often
#   make demo ARGS='--requests 20000'               a longer demo (--help lists its options)
#   make demo KILL=1                                workers are killed at random, with a spool and without
#   make bench ARGS='--only paced --rounds 3'       one measure only (--help lists them)

PYTHON ?= python3
VENV ?= .venv
TESTS ?= tests
ARGS ?=
# Two more than there are processors: the tests of the servers wait more than they work.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(2 + (os.cpu_count() or 1))')
N ?= 1
JOBS ?= 2

PY := $(VENV)/bin/python

.PHONY: help
help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(VENV)/.installed-demo  ## a shop under gunicorn, reloaded, recycled, stopped: does each event arrive once?
	@$(PY) examples/gunicorn/demo/run.py $(if $(KILL),--kill) $(ARGS)

.PHONY: test
test: $(VENV)/.installed-test  ## the whole suite, in parallel
	@$(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS) $(TESTS)

.PHONY: core
core: $(VENV)/.installed-core  ## the tests that need no server, in parallel
	@$(PY) -m pytest -n auto --dist worksteal $(ARGS) tests/unit tests/fork tests/faults

.PHONY: matrix
matrix: $(VENV)/.installed-test  ## every way a server lives and ends, N times each; writes docs/matrix.md
	@$(PY) tests/servers/matrix.py -n $(N) -j $(JOBS) --write docs/matrix.md $(ARGS)

.PHONY: bench
bench: $(VENV)/.installed-bench  ## beside six peers, each in its own environment; writes docs/benchmarks
	@$(PY) -m benchmarks.run $(ARGS)

.PHONY: lint
lint: $(VENV)/.installed-lint  ## ruff: its rules and its format
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check

.PHONY: types
types: $(VENV)/.installed-demo $(VENV)/.installed-lint  ## mypy, strict (the examples need what the demo needs)
	@$(PY) -m mypy

.PHONY: wheel
wheel: $(VENV)/.installed-lint  ## dist/klime_mp-*.whl
	@$(PY) -m build --wheel

.PHONY: clean
clean:  ## remove the environment and everything that was built
	rm -rf $(VENV) .venv-bench build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage
	find src tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment ---------------------------------------------------------------------------------------------

# Runs a command while holding a lock, so that two of these at once do not make one environment twice.
# (Python's own call: flock(1) is not on every system.)
LOCKED = mkdir -p $(VENV) && $(PYTHON) -c 'import fcntl, subprocess, sys; \
	lock = open(sys.argv[1], "w"); fcntl.flock(lock, fcntl.LOCK_EX); \
	sys.exit(subprocess.call(sys.argv[2:]))' $(VENV)/.lock

# A copied environment still imports the package from the folder it was made for: make it anew.
ifneq ($(shell cat $(VENV)/.made-for 2>/dev/null || pwd -P),$(CURDIR))
.PHONY: elsewhere
$(VENV)/.installed-bench $(VENV)/.installed-core $(VENV)/.installed-demo $(VENV)/.installed-test $(VENV)/.installed-lint: elsewhere
endif

# One stamp for each extra. It is looked at again inside the lock: who had to wait finds the work done.
# --prefer-binary, because a machine without a compiler is better served by an older wheel than by newer sources.
$(VENV)/.installed-%: pyproject.toml
	@$(LOCKED) sh -ec ' \
		if [ "$$(cat $(VENV)/.made-for 2>/dev/null || pwd -P)" != "$$(pwd -P)" ]; then \
			rm -rf $(VENV)/bin $(VENV)/lib* $(VENV)/.installed-*; \
		fi; \
		if [ $@ -nt pyproject.toml ]; then exit 0; fi; \
		if ! $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))"; then \
			echo "klime-mp needs Python 3.10 or later; say which: make PYTHON=python3.12 ..." >&2; exit 1; \
		fi; \
		if ! $(PY) -m pip --version >/dev/null 2>&1; then \
			echo "making $(VENV)"; \
			$(PYTHON) -m venv $(VENV) >/dev/null 2>&1 || \
			virtualenv --quiet --python $(PYTHON) $(VENV) >/dev/null 2>&1 || { \
				echo "$(PYTHON) cannot make a virtual environment: install the package python3-venv" \
					"(apt-get install python3-venv), or virtualenv" >&2; exit 1; }; \
		fi; \
		pwd -P >$(VENV)/.made-for; \
		echo "installing klime-mp[$*] into $(VENV)"; \
		$(PY) -m pip install -qq --disable-pip-version-check --prefer-binary --editable ".[$*]"; \
		if [ $* = test ]; then $(OLD_UWSGI); fi; \
		touch $@'

# The last uWSGI that has no threads unless it is told to, beside the current one. There is no wheel of it for every
# interpreter; the scenario that wants it says so when it is missing.
OLD_UWSGI = $(PY) -m pip install -qq --disable-pip-version-check --only-binary :all: --no-deps \
	--target $(VENV)/uwsgi-2.0.26 pyuwsgi==2.0.26 || echo "uWSGI 2.0.26 cannot be installed here"
