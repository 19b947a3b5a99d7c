"""A virtual environment for each contestant, made once: their dependencies would not always agree in one.

A stamp tells what it was made for: it is made anew when the requirements, the interpreter or our pyproject.toml change.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.roster import Contestant

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv-bench"
REASON_LENGTH = 200  # characters

_LIST = (
    "import importlib.metadata as m, json; print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
)


class InstallationError(Exception):
    """A contestant cannot be installed here; the text says why."""


def python_of(contestant: Contestant) -> Path:
    """Its interpreter."""
    return FOLDER / contestant.name / "bin" / "python"


def prepare(contestant: Contestant) -> dict[str, str]:
    """Make its environment if need be; return the version of each distribution in it.

    Raises:
        InstallationError: pip said no.
    """
    folder, stamp = FOLDER / contestant.name, FOLDER / contestant.name / ".made-for"
    wanted = _wanted(contestant)
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        _call(sys.executable, "-m", "venv", str(folder))
        # Editable, so that what is measured is the checkout as it is.
        requirements = [word for one in contestant.requirements for word in (("-e", one) if one[0] == "." else (one,))]
        pip = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--prefer-binary")
        _call(str(python_of(contestant)), *pip, *requirements, "gunicorn")
        stamp.write_text(wanted)
    versions: dict[str, str] = json.loads(_call(str(python_of(contestant)), "-c", _LIST))
    return {name: version for name, version in sorted(versions.items()) if name not in {"pip", "setuptools"}}


def _wanted(contestant: Contestant) -> str:
    wanted = [sys.version, str(ROOT), *contestant.requirements]
    if contestant.kind == "ours":
        wanted.append(hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest())
    return "\n".join(wanted)


def _call(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("ERROR")]
        raise InstallationError((errors or [f"exit status {done.returncode}"])[0][:REASON_LENGTH])
    return done.stdout
