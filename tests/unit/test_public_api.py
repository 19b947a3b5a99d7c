from __future__ import annotations

import importlib
import inspect
import json
import os
import pydoc
import re
import statistics
import subprocess
import sys
import types
from dataclasses import fields

import pytest

import klime_mp
from klime_mp._config import Config
from klime_mp._default import _default

# The words of the SDK family; the parameters of each call, those that are keyword-only behind a star.
SIGNATURES = {
    "track": "event properties user_id group_id * timestamp message_id context",
    "identify": "user_id traits * timestamp message_id context",
    "group": "group_id traits user_id * timestamp message_id context",
    "track_sync": "event properties user_id group_id * timestamp message_id context timeout_ms",
    "identify_sync": "user_id traits * timestamp message_id context timeout_ms",
    "group_sync": "group_id traits user_id * timestamp message_id context timeout_ms",
    "flush": "timeout_ms",
    "shutdown": "timeout_ms",
    "restart": "",
}
CLIENT_ONLY = {"queue_size": "", "stats": "", "aflush": "timeout_ms", "ashutdown": "timeout_ms"}


def parameters(function):
    found, star = [], False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            found.append("*")
            star = True
        found.append(name)
    return " ".join(found)


def methods(kind):
    return {name: value for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}


# --- names


def test_all_is_the_public_api():
    public = {
        name
        for name, value in vars(klime_mp).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert set(klime_mp.__all__) == public | {"__version__"}
    assert klime_mp.__all__ == sorted(klime_mp.__all__)


def test_the_contracts_names_are_there():
    promised = (
        "Client KlimeClient configure set_client get_client track identify group track_sync identify_sync group_sync "
        "flush shutdown restart BatchResponse ValidationError Stats "
        "KlimeError ConfigurationError InvalidEventError SendError"
    )
    assert set(promised.split()) <= set(klime_mp.__all__)
    assert klime_mp.KlimeClient is klime_mp.Client


def test_the_clients_methods():
    assert set(methods(klime_mp.Client)) == {*SIGNATURES, *CLIENT_ONLY}


@pytest.mark.parametrize(("name", "expected"), [*SIGNATURES.items(), *CLIENT_ONLY.items()])
def test_signatures_of_the_client(name, expected):
    assert parameters(getattr(klime_mp.Client, name)) == f"self {expected}".strip()


@pytest.mark.parametrize(("name", "expected"), SIGNATURES.items())
def test_signatures_of_the_module(name, expected):
    """No `self` in what `help()` and an editor show."""
    assert parameters(getattr(klime_mp, name)) == expected


def test_what_may_be_left_out_is_none():
    for name in (*SIGNATURES, *CLIENT_ONLY):
        defaults = {
            key: one.default for key, one in inspect.signature(getattr(klime_mp.Client, name)).parameters.items()
        }
        required = {key for key, default in defaults.items() if default is inspect.Parameter.empty}
        assert required == {"self", *SIGNATURES.get(name, "").split()[:1]} - {"timeout_ms"}
        assert {defaults[key] for key in defaults.keys() - required} <= {None}


def test_results():
    assert [field.name for field in fields(klime_mp.BatchResponse)] == ["status", "accepted", "failed", "errors"]
    assert [field.name for field in fields(klime_mp.ValidationError)] == ["index", "message", "code"]
    assert [field.name for field in fields(klime_mp.Stats)] == [
        "tracked",
        "delivered",
        "rejected",
        "failed",
        "dropped",
        "pending",
        "adopted",
        "handed_over",
        "retries",
        "requests",
    ]


# --- options


def test_every_option_is_a_keyword_of_the_client():
    options = [field.name for field in fields(Config)]
    assert parameters(klime_mp.Client) == f"write_key * {' '.join(options[1:])} unknown"
    defaults = [parameter.default for parameter in inspect.signature(klime_mp.Client).parameters.values()]
    assert defaults[:-1] == [None] * len(options), "a default is written once, in Config"


def test_help_explains_every_option():
    shown = pydoc.render_doc(klime_mp.Client, renderer=pydoc.plaintext)
    arguments = shown[shown.index("Args:") : shown.index("Raises:")]
    lines = [line.strip(" |") for line in arguments.splitlines()]
    assert [
        field.name for field in fields(Config) if not any(line.startswith(f"{field.name}: ") for line in lines)
    ] == []


def test_configure_takes_the_same_options():
    try:
        client = klime_mp.configure(enabled=False, flush_interval=5)
        assert client is klime_mp.get_client()
        assert klime_mp.track("e", user_id=1) is None
        assert client.stats().dropped["disabled"] == 1
    finally:
        _default.clear()


# --- words


@pytest.mark.parametrize("name", [name for name in klime_mp.__all__ if name != "__version__"])
def test_every_public_name_is_documented(name):
    value = getattr(klime_mp, name)
    assert inspect.getdoc(value)
    if isinstance(value, type):
        undocumented = [method for method, function in methods(value).items() if not inspect.getdoc(function)]
        assert undocumented == []


def test_the_package_tells_an_events_road():
    """The modules it names exist."""
    stations = set(re.findall(r"\b_[a-z]+\b", klime_mp.__doc__))
    assert {"_client", "_event", "_queue", "_sender", "_delivery", "_transport"} <= stations
    for station in stations:
        importlib.import_module(f"klime_mp.{station}")


# --- an import

FRESH = """
import json, os, sys, threading, time
fds = os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else []
modules = set(sys.modules)
start = time.process_time()  # what else the machine does is not counted
import klime_mp
seconds = time.process_time() - start
print(json.dumps({
    "milliseconds": seconds * 1000,
    "loaded": sorted(set(sys.modules) - modules),
    "opened": sorted(set(os.listdir("/proc/self/fd")) - set(fds)) if fds else [],
    "threads": threading.active_count(),
    "handlers": "logging" in sys.modules and len(sys.modules["logging"].getLogger().handlers),
}))
"""


@pytest.fixture(scope="module")
def imports():
    """What importing does in a fresh interpreter, five times."""
    command = [sys.executable, "-W", "error", "-c", FRESH]
    return [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(5)]


def test_importing_does_nothing(imports):
    for found in imports:
        assert found["threads"] == 1
        assert found["opened"] == []
        assert not found["handlers"]


def test_importing_loads_little(imports):
    heavy = {
        "requests",
        "urllib3",
        "orjson",
        "http",
        "ssl",
        "logging",
        "asyncio",
        "multiprocessing",
        "numpy",
        "aiohttp",
    }
    heavy |= {"gunicorn", "uwsgi", "celery", "django", "flask", "pytest"}
    assert heavy & {name.partition(".")[0] for name in imports[0]["loaded"]} == set()


def test_importing_is_quick(imports):
    milliseconds = statistics.median(found["milliseconds"] for found in imports)
    print(f"import klime_mp: {milliseconds:.1f} ms")
    assert milliseconds < 250  # the target is 30 on a machine with nothing else to do


def test_what_is_beside_the_package_stays_there():
    """Importing the package's parts that need an extra, and the servers themselves, is left to who uses them."""
    beside = ("klime_mp.collector", "klime_mp.cli", "aiohttp", "celery", "django", "gunicorn", "uwsgi", "requests")
    source = f"import klime_mp, sys; print(*(name for name in {beside} if name in sys.modules))"
    shown = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, check=True, env=os.environ.copy()
    ).stdout
    assert shown.split() == []
