"""Any Python value -> JSON, by one set of rules and encoders that agree on every value.

The common case, a tree of JSON's own types and nothing else, is for C: `orjson` when it is installed, the standard
library's encoder when not. Whatever they refuse (an integer of very many digits, a key that is no string, a lone
surrogate, NaN) and every other type goes through `_Writer`, which knows all rules and writes the JSON itself: no
encoder of the standard library can be told how to spell an integer of 5,000 digits. No Python code may run inside
orjson (a `default` function, an Enum's `value`): it crashes the process when that code, or a thread that gets its turn
meanwhile, changes the tree, and it swallows a signal's exception.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any
from uuid import UUID

from klime_mp._signals import raised_by_signal

try:
    import orjson
except ImportError:  # the extra `fast`
    orjson = None  # type: ignore[assignment]

# Anything deeper is invalid; 200 levels are promised, and orjson stops at 254.
MAX_DEPTH = 254
# No event may be larger, so nothing larger need be written out in full.
MAX_BYTES = 200 * 1024


EVERYTHING = object()


class UnencodableError(ValueError):
    """A value that has no JSON: a cycle, or an object whose own methods raise."""


class TooLargeError(ValueError):
    """The JSON would certainly be larger than `MAX_BYTES`."""


def encode(value: Any, foreign: Any = EVERYTHING) -> bytes:
    """`value` as compact UTF-8 JSON.

    Args:
        value: what is written.
        foreign: the part of it that may be anything, when all else is known to be of JSON's own types: to look at each
            item is half of the work.

    Raises:
        UnencodableError: it contains itself, is nested too deeply, or one of its methods raised.
        TooLargeError: the writer gave up, as the result cannot fit into an event.
    """
    fast: Any = orjson
    try:
        if _is_plain(value if foreign is EVERYTHING else foreign, fast is None):
            if fast is None:
                return _dumps(value).encode()
            # Joined into a copy: orjson returns its bytes with the over-allocated buffer behind them.
            return b"".join((fast.dumps(value), b""))
    except (TypeError, ValueError, RuntimeError) as error:  # what they refuse; or another thread changed a dict
        if raised_by_signal(error):
            raise
    return write(value)


def write(value: Any) -> bytes:
    """The same without orjson."""
    try:
        try:
            return _Writer().text(value).encode()
        except UnicodeEncodeError:
            return _Writer(clean=_replace_surrogates).text(value).encode()
    except (UnencodableError, TooLargeError):
        raise
    except RecursionError:
        raise UnencodableError("it is nested too deeply or contains itself") from None
    except Exception as error:
        if raised_by_signal(error):
            raise
        raise UnencodableError(f"{type(error).__name__} was raised while it was read") from error


def decode(body: bytes) -> Any:
    """What `encode` wrote, as JSON's own types; other than `json.loads` alone, integers of any size included."""
    try:
        return json.loads(body)
    except ValueError:  # more digits than sys.set_int_max_str_digits allows; Decimal knows no such limit
        return json.loads(body, parse_int=lambda digits: int(Decimal(digits)))


def plain(value: Any) -> Any:  # noqa: C901, PLR0912 # a table of types
    """What a value that is none of JSON's own types is to be written as, one level deep.

    The rules, in order; the first that fits holds. Anything else becomes `str(value)`.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, Decimal):
        return _number(value)
    if isinstance(value, (date, time)):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # Not while another thread is still importing it.
    generic: Any = getattr(sys.modules.get("numpy"), "generic", ())
    if isinstance(value, generic):
        scalar = value.item()
        if not isinstance(scalar, generic):  # a long double has no Python value
            return scalar
    return str(value)


def _number(value: Decimal) -> int | float | None:
    if not value.is_finite():
        return None
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent >= 0:
        return _integer(value)
    number = float(value)
    return number if math.isfinite(number) else _integer(value)


def _integer(value: Decimal) -> int:
    if value.adjusted() > MAX_BYTES:  # checked first: Decimal("1E+999999999") is a few bytes, its int a gigabyte
        raise TooLargeError
    return int(value)


def _key(key: Any) -> str:
    """A mapping's key, spelled as JSON spells it where it does, else `str()`."""
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, int):
        return _digits(key)
    if isinstance(key, float):
        return float.__repr__(key)
    return str(key)


def _digits(value: int) -> str:
    if value.bit_length() > MAX_BYTES * 4:
        raise TooLargeError
    try:
        return int.__repr__(value)
    except ValueError:  # more digits than sys.set_int_max_str_digits allows; Decimal knows no such limit
        return str(Decimal(value))


def _replace_surrogates(text: str) -> str:
    """Lone surrogates as U+FFFD; a pair of them is the character it means."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


_SCALARS = frozenset({str, int, float, bool, type(None)})
_STR = frozenset({str})
# C code for what is plain: only that it does not know an integer of 5,000 digits, NaN as null, a lone surrogate.
_dumps = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode

_WRITTEN = _SCALARS | {dict, list, tuple}
_MAX_ITEMS = 100_000  # so that looking at a cycle ends; an event with more than that may take its time
_MAX_CONVERSIONS = 10  # an Enum whose value is a numpy scalar needs two


def _is_plain(value: Any, keys: bool) -> bool:  # noqa: C901, FBT001 # each call costs as much as a third of it
    """Is it a tree of JSON's own types, subclasses excluded? `keys`: with str as keys; orjson checks them itself.

    Level by level: orjson knows no end of tuples in tuples, and crashes in their depth.
    """
    level: Iterable[Any] = value.values() if type(value) is dict and not keys else (value,)
    levels, room = MAX_DEPTH, _MAX_ITEMS
    while True:
        deeper: list[Any] = []
        for item in level:
            kind = type(item)
            if kind not in _SCALARS:
                if kind is dict:
                    if keys and not _STR.issuperset(map(type, item)):
                        return False
                    members = item.values()
                    # The usual ones have nothing deeper, which C code sees in a moment.
                    if not _SCALARS.issuperset(map(type, members)):
                        deeper += members
                    room -= len(members)
                elif kind is list or kind is tuple:
                    deeper += item
                    room -= len(item)
                else:
                    return False
                if room < 0:
                    return False
        if not deeper:
            return True
        level = deeper
        levels -= 1
        if not levels:
            return False


class _Writer:
    """Writes one value as JSON text, counting what it writes."""

    def __init__(self, clean: Callable[[str], str] = str) -> None:
        self._clean = clean
        self._size = 0

    def text(self, value: Any) -> str:
        parts: list[str] = []
        self._write(value, parts, MAX_DEPTH)
        return "".join(parts)

    def _write(self, value: Any, parts: list[str], levels: int) -> None:
        kind = type(value)
        conversions = 0
        while kind not in _WRITTEN:
            value = plain(value)
            kind = type(value)
            conversions += 1
            if conversions > _MAX_CONVERSIONS:
                raise UnencodableError("it turns into an object like itself for ever")
        if kind is dict or kind is list or kind is tuple:
            if not levels:
                raise UnencodableError(f"it is nested more than {MAX_DEPTH} levels deep or contains itself")
            (self._write_object if kind is dict else self._write_array)(value, parts, levels - 1)
            return
        if kind is str:
            part = encode_basestring(self._clean(value))
        elif kind is int:
            part = _digits(value)
        elif kind is float:
            part = float.__repr__(value) if math.isfinite(value) else "null"
        else:
            part = "null" if value is None else "true" if value else "false"
        self._count(len(part))
        parts.append(part)

    def _write_object(self, mapping: dict[Any, Any], parts: list[str], levels: int) -> None:
        # A copy, made in one step: a key's `str()`, or another thread, may change the mapping.
        members = {self._clean(_key(key)): value for key, value in list(mapping.items())}
        mark = "{"
        for key, value in members.items():
            part = f"{mark}{encode_basestring(key)}:"
            self._count(len(part))
            parts.append(part)
            self._write(value, parts, levels)
            mark = ","
        parts.append("}" if members else "{}")
        self._count(2)

    def _write_array(self, items: Any, parts: list[str], levels: int) -> None:
        mark = "["
        for item in list(items):
            parts.append(mark)
            self._write(item, parts, levels)
            mark = ","
            self._count(1)
        parts.append("]" if mark == "," else "[]")
        self._count(2)

    def _count(self, size: int) -> None:
        self._size += size
        if self._size > 8 * MAX_BYTES:
            raise TooLargeError
