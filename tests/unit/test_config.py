from __future__ import annotations

import dataclasses
import logging
import math
import pickle
from decimal import Decimal
from pathlib import Path

import pytest

import klime_mp
from klime_mp._config import Config
from klime_mp.exceptions import ConfigurationError

KEY = "klime-write-key-5678"
DEFAULTS = {
    "write_key": "",
    "endpoint": "https://i.klime.com",
    "flush_interval": 2000,
    "max_batch_size": 20,
    "max_queue_size": 1000,
    "max_queue_bytes": 64 * 1024 * 1024,
    "retry_max_attempts": 5,
    "retry_initial_delay": 1000,
    "request_timeout": 10_000,
    "shutdown_timeout": 5000,
    "flush_on_shutdown": True,
    "on_error": None,
    "on_success": None,
    "on_drop": None,
    "before_send": None,
    "logger": logging.getLogger("klime_mp"),
    "spool_dir": None,
    "spool_max_bytes": 256 * 1024 * 1024,
    "enabled": True,
    "strict": False,
}
DURATIONS = ("flush_interval", "retry_initial_delay", "request_timeout", "shutdown_timeout")
COUNTS = ("max_batch_size", "max_queue_size", "max_queue_bytes", "retry_max_attempts", "spool_max_bytes")
FLAGS = ("flush_on_shutdown", "enabled", "strict")
CALLBACKS = ("on_error", "on_success", "on_drop", "before_send")


def resolve(environ=None, **options):
    return Config.resolve({"write_key": KEY, **options}, environ or {})


class Unshowable:
    def __repr__(self):
        raise RuntimeError("no")


def a_callback(*_):
    pass


# --- what is used


def test_defaults():
    assert vars(Config.resolve({"enabled": False}, {})) == DEFAULTS | {"enabled": False}


def test_none_means_the_default():
    assert vars(resolve(**dict.fromkeys(DEFAULTS.keys() - {"write_key"}))) == DEFAULTS | {"write_key": KEY}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("write_key", "!#~"),
        ("endpoint", "http://localhost:8000"),
        ("endpoint", "HTTPS://[::1]:8000/some/path"),
        *((name, value) for name in DURATIONS for value in (1, 0.5, 60_000, 2**31 - 1)),
        *((name, value) for name in COUNTS for value in (1, 100)),
        *((name, value) for name in FLAGS for value in (True, False)),
        *((name, a_callback) for name in CALLBACKS),
        ("logger", logging.LoggerAdapter(logging.getLogger("test"), {})),
        ("spool_dir", "/absolute/folder"),
    ],
)
def test_what_is_given_is_used(name, value):
    assert getattr(resolve(**{name: value}), name) == value


@pytest.mark.parametrize("given", ["folder", Path("folder"), "./folder/"], ids=repr)
def test_a_path_is_where_it_was_when_it_was_given(given, tmp_path, monkeypatch):
    """A child may `chdir` before it writes its first event."""
    monkeypatch.chdir(tmp_path)
    assert resolve(spool_dir=given).spool_dir == str(tmp_path / "folder")


def test_a_relative_path_without_a_working_directory(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigurationError, match="spool_dir"):
        resolve(spool_dir="folder")


@pytest.mark.parametrize("given", ["https://i.klime.com/", "https://i.klime.com//", "https://i.klime.com"])
def test_an_endpoint_may_end_in_a_slash(given):
    assert resolve(endpoint=given).endpoint == "https://i.klime.com"
    assert resolve(endpoint=f"{given.rstrip('/')}/path/").endpoint == "https://i.klime.com/path"


def test_it_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve().strict = True


# --- what is refused


NOT_POSITIVE = [0, -1, -0.5]
NO_NUMBERS = [math.nan, math.inf, -math.inf, True, False, "5", b"5", [5], {}, 5j, Decimal(5), Unshowable(), 10**5000]
BAD_URLS = [
    "",
    "i.klime.com",
    "//i.klime.com",
    "ftp://i.klime.com",
    "https://",
    "https:///path",
    "https://i.klime.com:port",
    "https://i.klime.com:70000",
    "https://[::1",
    "https://i.klime.com?",
    "https://i.klime.com?query=1",
    "https://i.klime.com/#",
    "https://user@i.klime.com",
    "https://user:password@i.klime.com",
    "https://i.klime.com/with space",
    "https://i.klime.com\n",
    b"https://i.klime.com",
    5,
    True,
    Unshowable(),
]


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        *((name, value, "number of milliseconds above 0") for name in DURATIONS for value in NOT_POSITIVE + NO_NUMBERS),
        *((name, 2**31, "at most 2147483647") for name in DURATIONS),
        *((name, value, "whole number above 0") for name in COUNTS for value in [*NOT_POSITIVE, *NO_NUMBERS[:-1], 1.0]),
        *((name, value, "True or False") for name in FLAGS for value in (0, 1, "true", "", [], Unshowable())),
        *((name, value, "a function") for name in CALLBACKS for value in (0, "text", [a_callback], Unshowable())),
        *(("endpoint", value, "an http or https URL without query") for value in BAD_URLS),
        *(("logger", value, "logging.Logger") for value in ("klime_mp", 0, print)),
        *(("spool_dir", value, "the path of a directory") for value in ("", "a\0b", "\ud800x", 0, b"folder", [])),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else type(value).__name__,
)
def test_a_bad_value_is_refused(name, value, right):
    with pytest.raises(ConfigurationError) as caught:
        resolve(**{name: value})
    text = str(caught.value)
    assert text.startswith(f"{name}: ")
    assert right in text
    if not isinstance(value, Unshowable) and value != 10**5000:
        assert repr(value) in text
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("key", ["", "with space", "tab\t", "new-line\n", "clé", "\x7f", b"bytes-key", 12345678, True])
def test_a_bad_write_key_is_refused_and_not_shown(key):
    with pytest.raises(ConfigurationError, match=r"^write_key: the given value is not the write key of your") as caught:
        resolve(write_key=key)
    assert not key or str(key) not in str(caught.value)


@pytest.mark.parametrize("name", ["unknown", "options", "__class__"])
def test_an_unknown_option_with_a_name_of_ours_is_refused(name):
    with pytest.raises(ConfigurationError, match=f"unknown option '{name}'"):
        klime_mp.Client("key", **{name: 5})


def test_an_unknown_option_is_refused():
    with pytest.raises(ConfigurationError, match=r"unknown option 'flush_intervall'.* flush_interval, "):
        resolve(flush_intervall=5)
    with pytest.raises(ConfigurationError, match="unknown option 'writekey'"):
        klime_mp.Client(KEY, writekey=KEY)


def test_a_key_is_required():
    with pytest.raises(ConfigurationError, match=r"write_key is missing.*KLIME_WRITE_KEY.*enabled=False"):
        Config.resolve({}, {})


def test_a_disabled_client_needs_no_key(monkeypatch):
    monkeypatch.delenv("KLIME_WRITE_KEY", raising=False)
    assert klime_mp.Client(enabled=False).track("e", user_id=1) is None


# --- the environment


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("write_key", "another-key", "another-key"),
        ("endpoint", "https://example.com/", "https://example.com"),
        *((name, "1500", 1500) for name in DURATIONS + COUNTS if name != "max_batch_size"),
        *((name, "0.5", 0.5) for name in DURATIONS),
        ("max_batch_size", "50", 50),
        *((name, text, True) for name in FLAGS for text in ("1", "true", "Yes", "ON")),
        *((name, text, False) for name in FLAGS for text in ("0", "FALSE", "no", "off")),
        ("spool_dir", "/var/spool/klime", "/var/spool/klime"),
    ],
)
def test_variables(name, text, value):
    config = Config.resolve({}, {"KLIME_WRITE_KEY": KEY, f"KLIME_{name.upper()}": text})
    assert getattr(config, name) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("endpoint", "i.klime.com"),
        *((name, text) for name in DURATIONS + COUNTS for text in ("0", "-5", "five", "nan", "inf", "5s")),
        *((name, "5.5") for name in COUNTS),
        *((name, text) for name in FLAGS for text in ("maybe", "2", " ")),
        ("spool_dir", "a\0b"),
    ],
)
def test_a_bad_variable_is_named(name, text):
    variable = f"KLIME_{name.upper()}"
    with pytest.raises(ConfigurationError, match=f"^{variable}: .+ is not ."):
        resolve({variable: text})


def test_a_bad_key_in_the_environment_is_not_shown():
    with pytest.raises(ConfigurationError, match=r"^KLIME_WRITE_KEY: the given value is not") as caught:
        Config.resolve({}, {"KLIME_WRITE_KEY": f"{KEY} "})
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("name", DEFAULTS)
def test_an_empty_variable_is_none(name):
    assert getattr(resolve({f"KLIME_{name.upper()}": ""}), name) == (DEFAULTS | {"write_key": KEY})[name]


def test_arguments_win():
    environ = {"KLIME_WRITE_KEY": "environment", "KLIME_STRICT": "true", "KLIME_MAX_QUEUE_SIZE": "nonsense"}
    config = resolve(environ, strict=False, max_queue_size=5)
    assert (config.write_key, config.strict, config.max_queue_size) == (KEY, False, 5)


@pytest.mark.parametrize("name", [*CALLBACKS, "logger"])
def test_what_is_no_plain_value_is_not_read_from_the_environment(name):
    assert getattr(resolve({f"KLIME_{name.upper()}": "text"}), name) == DEFAULTS[name]


def test_a_client_reads_the_environment(monkeypatch):
    monkeypatch.setenv("KLIME_WRITE_KEY", KEY)
    monkeypatch.setenv("KLIME_ENDPOINT", "http://localhost:5")
    assert "http://localhost:5 key=…5678" in repr(klime_mp.Client())


# --- warnings


def test_a_batch_is_at_most_a_hundred_events(caplog):
    assert resolve(max_batch_size=100).max_batch_size == 100
    assert not caplog.records
    assert resolve(max_batch_size=101).max_batch_size == 100
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "max_batch_size 101 is more than the endpoint takes; using 100"


@pytest.mark.parametrize(
    ("endpoint", "exposed"),
    [
        ("http://i.klime.com", True),
        ("http://10.0.0.1:8000", True),
        ("http://localhost.example.com", True),
        ("http://[2001:db8::1]", True),
        ("https://i.klime.com", False),
        ("https://10.0.0.1", False),
        ("http://localhost:8000", False),
        ("HTTP://LOCALHOST", False),
        ("http://klime.localhost", False),
        ("http://127.0.0.1", False),
        ("http://127.1.2.3:5", False),
        ("http://[::1]:5", False),
    ],
)
def test_plain_http_warns_once(endpoint, exposed, caplog):
    assert resolve(endpoint=endpoint).is_exposed is exposed
    client = klime_mp.Client(KEY, endpoint=endpoint)
    client.stats()
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * exposed
    assert caplog.text.count("travel unencrypted") == exposed
    assert KEY not in caplog.text


# --- the key is a secret


def test_the_key_is_not_shown():
    config = resolve()
    client = klime_mp.Client(KEY)
    for shown in (repr(config), str(config), repr(client), str(client), f"{config} {client}"):
        assert KEY not in shown
    assert config.key_hint == "…5678"


@pytest.mark.parametrize("key", ["k", "short-key", "elevenchars"])
def test_of_a_short_key_nothing_is_shown(key):
    config = resolve(write_key=key)
    assert config.key_hint == "…"
    assert repr(klime_mp.Client(key)).count("key=… ") == 1


def test_a_key_is_taken_out_of_a_text():
    assert resolve().redact(f"Bearer {KEY}, {KEY}!") == "Bearer …5678, …5678!"
    assert Config.resolve({"enabled": False}, {}).redact("nothing") == "nothing"


# --- pickling


def test_pickling_keeps_everything():
    config = resolve(on_error=a_callback, flush_interval=5, logger=logging.getLogger("another"))
    assert vars(pickle.loads(pickle.dumps(config))) == vars(config)
