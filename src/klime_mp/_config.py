"""Every option, once: its type, default, check, and whether the environment may set it.

`Config` is one immutable, checked value. Durations are milliseconds here, as everywhere a user sees them.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from klime_mp.exceptions import ConfigurationError

MAX_BATCH_SIZE = 100
MAX_MILLISECONDS = 2**31 - 1  # 24 days; a socket takes no longer timeout

_LOGGER = logging.getLogger("klime_mp")
_LOGGER.addHandler(logging.NullHandler())

Check = Callable[[Any], Any]  # the value to use; raises ValueError(what would be right)


def _milliseconds(value: Any) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 < value <= MAX_MILLISECONDS:
        raise ValueError(f"a number of milliseconds above 0, at most {MAX_MILLISECONDS}")
    return value  # type: ignore[no-any-return] # checked just now


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError("a whole number above 0")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def _key(value: Any) -> str:
    if not isinstance(value, str) or not value or not all("!" <= char <= "~" for char in value):
        raise ValueError("the write key of your Klime source: printable ASCII without spaces")
    return value


def _url(value: Any) -> str:
    right = "an http or https URL without query, such as https://i.klime.com"
    if not isinstance(value, str):
        raise ValueError(right)
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 # raises when it is not a number
    except ValueError:
        raise ValueError(right) from None
    readable = value.isprintable() and " " not in value
    if parts.scheme not in {"http", "https"} or not parts.hostname or not readable:
        raise ValueError(right)
    if "?" in value or "#" in value or parts.username is not None:
        raise ValueError(right)
    return value.rstrip("/")


def _function(value: Any) -> Any:
    if not callable(value):
        raise ValueError("a function")
    return value


def _logger(value: Any) -> Any:
    if not callable(getattr(value, "log", None)):
        raise ValueError("a logging.Logger")
    return value


def _directory(value: Any) -> str:
    try:
        path = os.fspath(value)
    except TypeError:
        path = None
    try:
        if isinstance(path, str) and path and "\0" not in path:
            os.fsencode(path)
            # Now: the program, or a child of it, may be somewhere else when it writes its first event.
            return os.path.abspath(path)  # noqa: PTH100 # no path objects in what every fork inherits
    except (UnicodeError, OSError):  # a lone surrogate; no working directory
        pass
    raise ValueError("the path of a directory")


def _number_from(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        return float(text)


def _flag_from(text: str) -> bool:
    words = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    return words[text.strip().lower()]


def _option(default: Any, check: Check, read: Callable[[str], Any] | None = None, *, secret: bool = False) -> Any:
    """A field of `Config`: its default, its check, how to read it from the environment (None: only as an argument)."""
    return dataclasses.field(default=default, repr=not secret, metadata={"check": check, "read": read})


@dataclass(frozen=True, kw_only=True)
class Config:
    """A client's options, checked. See the README for what each one means."""

    write_key: str = _option("", _key, str, secret=True)
    endpoint: str = _option("https://i.klime.com", _url, str)
    flush_interval: float = _option(2000, _milliseconds, _number_from)
    max_batch_size: int = _option(20, _count, int)
    max_queue_size: int = _option(1000, _count, int)
    max_queue_bytes: int = _option(64 * 1024 * 1024, _count, int)
    retry_max_attempts: int = _option(5, _count, int)
    retry_initial_delay: float = _option(1000, _milliseconds, _number_from)
    request_timeout: float = _option(10_000, _milliseconds, _number_from)
    shutdown_timeout: float = _option(5000, _milliseconds, _number_from)
    flush_on_shutdown: bool = _option(True, _flag, _flag_from)
    on_error: Callable[..., object] | None = _option(None, _function)
    on_success: Callable[..., object] | None = _option(None, _function)
    on_drop: Callable[..., object] | None = _option(None, _function)
    before_send: Callable[..., Any] | None = _option(None, _function)
    logger: logging.Logger = _option(_LOGGER, _logger)
    spool_dir: str | None = _option(None, _directory, str)
    spool_max_bytes: int = _option(256 * 1024 * 1024, _count, int)
    enabled: bool = _option(True, _flag, _flag_from)
    strict: bool = _option(False, _flag, _flag_from)

    @classmethod
    def resolve(cls, options: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Config:
        """Arguments over environment over defaults; None means "not given".

        Raises:
            ConfigurationError: naming the option or variable, the value, and what would be right.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name in options:
            if name not in fields:
                raise ConfigurationError(f"unknown option {name!r}; the options are {', '.join(fields)}")
        chosen = {}
        for name, field in fields.items():
            value, origin = options.get(name), name
            if value is None and field.metadata["read"] is not None:
                value, origin = _from_environment(name, field.metadata["read"], environ)
            if value is None:
                continue
            try:
                chosen[name] = field.metadata["check"](value)
            except ValueError as error:
                shown = "the given value" if name == "write_key" else _shown(value)
                raise ConfigurationError(f"{origin}: {shown} is not {error}") from None
        config = cls(**chosen)
        if config.enabled and not config.write_key:
            raise ConfigurationError("write_key is missing: pass it, set KLIME_WRITE_KEY, or pass enabled=False")
        if config.max_batch_size > MAX_BATCH_SIZE:
            size = _shown(config.max_batch_size)
            config.warn(f"max_batch_size {size} is more than the endpoint takes; using {MAX_BATCH_SIZE}")
            config = dataclasses.replace(config, max_batch_size=MAX_BATCH_SIZE)
        return config

    def warn(self, text: str) -> None:
        """Write a WARNING about this configuration, when the client is built."""
        self.logger.log(logging.WARNING, "%s", text)

    @property
    def key_hint(self) -> str:
        """As much of the write key as may be shown: its end, if that leaves enough unsaid."""
        return f"…{self.write_key[-4:]}" if len(self.write_key) >= 12 else "…"

    def redact(self, text: str) -> str:
        """`text` without the write key, should somebody's error message quote it."""
        return text.replace(self.write_key, self.key_hint) if len(self.write_key) > 3 else text

    @property
    def is_exposed(self) -> bool:
        """Does the write key travel unencrypted beyond this machine?"""
        parts = urlsplit(self.endpoint)
        if parts.scheme != "http":
            return False
        host = parts.hostname or ""
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost" and not host.endswith(".localhost")


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 # the user's class; or an int of more digits than Python likes to write
        return f"this {type(value).__name__}"


def _from_environment(name: str, read: Callable[[str], Any], environ: Mapping[str, str]) -> tuple[Any, str]:
    variable = f"KLIME_{name.upper()}"
    text = environ.get(variable)
    if not text:
        return None, variable
    try:
        return read(text), variable
    except (ValueError, KeyError):
        return text, variable  # of the wrong type: the check says what would be right
