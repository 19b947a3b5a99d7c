"""Any Python value: what hypothesis passes to the client."""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict, UserDict, deque, namedtuple
from collections.abc import Mapping
from datetime import timedelta, timezone
from decimal import Decimal
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

# No database and no deadline: a run leaves nothing behind and does not fail because the machine is busy.
settings.register_profile(
    "klime", max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("klime")

Point = namedtuple("Point", "x y")  # noqa: PYI024 # the untyped kind is a kind of its own


class Color(enum.Enum):
    RED = "red"
    NOTHING = None
    LIST = (1, "two")


class Level(enum.IntEnum):
    LOW = 1


class Plan(str, enum.Enum):
    FREE = "free"


@dataclasses.dataclass
class Account:
    name: Any
    _secret: Any = None


@dataclasses.dataclass(frozen=True)
class Slotted:
    __slots__ = ("_hidden", "seen")
    seen: Any
    _hidden: Any


class CustomMapping(Mapping):
    """Neither a dict nor derived from one."""

    def __init__(self, members):
        self._members = dict(members)

    def __getitem__(self, key):
        return self._members[key]

    def __iter__(self):
        return iter(self._members)

    def __len__(self):
        return len(self._members)


class Text(str):
    __slots__ = ()


class Words:
    """An object that is its `str()`."""

    def __init__(self, text):
        self._text = text

    def __str__(self):
        return self._text


class Raising:
    """An object that raises when somebody wants to know what it is."""

    def __init__(self, error=RuntimeError):
        self._error = error

    def __str__(self):
        raise self._error("no")


ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
TEXT = st.text(st.characters(exclude_categories=()), max_size=10)  # lone surrogates included
NUMPY_SCALARS = [
    np.True_,
    np.int8(-5),
    np.uint64(2**64 - 1),
    np.float16(1.5),
    np.float32("nan"),
    np.float64(0.1),
    np.longdouble(2.5),
    np.complex64(1j),
    np.str_("text"),
    np.bytes_(b"bytes"),
    np.datetime64("2026-11-22T10:00:00"),
    np.datetime64("NaT", "s"),
    np.timedelta64(5, "s"),
]
JSON_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXT
HASHABLE = (
    JSON_SCALARS
    | st.integers(-(10**40), 10**40)
    | st.sampled_from([4299, 4300, 5000]).map(lambda exponent: 10**exponent)  # around sys.set_int_max_str_digits
    | st.binary(max_size=10)
    | st.decimals().filter(lambda number: not number.is_snan())  # cannot be hashed
    | st.sampled_from([Decimal("1E+400"), Decimal("-1E-400"), Decimal("1E+5000"), Decimal("1.5E-999999")])
    | st.datetimes(timezones=st.none() | ZONES)
    | st.dates()
    | st.times(timezones=st.none() | ZONES)
    | st.timedeltas()
    | st.uuids()
    | st.sampled_from([*Color, *Level, *Plan])
    | st.sampled_from(NUMPY_SCALARS)
    | st.builds(Text, TEXT)
    | st.builds(Words, TEXT)
    | st.fractions()
    | st.complex_numbers()
)
KEYS = HASHABLE | st.tuples(st.integers(), TEXT)
SCALARS = HASHABLE | st.just(Decimal("sNaN")) | st.just(object()) | st.builds(bytearray, st.binary(max_size=5))


def _containers(values):
    lists = st.lists(values, max_size=4)
    mappings = st.dictionaries(KEYS, values, max_size=4)
    return st.one_of(
        lists,
        lists.map(tuple),
        lists.map(deque),
        mappings,
        mappings.map(OrderedDict),
        mappings.map(MappingProxyType),
        mappings.map(UserDict),
        mappings.map(CustomMapping),
        st.builds(Point, values, values),
        st.builds(Account, values, values),
        st.builds(Slotted, values, values),
        st.sets(HASHABLE, max_size=4),
        st.frozensets(HASHABLE, max_size=4),
    )


def _tied(value):
    """A list that contains itself."""
    tied = [value]
    tied.append(tied)
    return tied


# What JSON has itself, in its own types: orjson's share.
json_values = st.recursive(
    JSON_SCALARS,
    lambda values: (
        st.lists(values, max_size=4)
        | st.lists(values, max_size=4).map(tuple)
        | st.dictionaries(TEXT, values, max_size=4)
    ),
    max_leaves=20,
)
# What can be written as JSON.
values = st.recursive(SCALARS, _containers, max_leaves=10)
# And what need not be: for calls that must not raise whatever they are given.
anything = (
    values
    | st.sampled_from([Raising, Raising(), Raising(ValueError), Words(None), Ellipsis, len, int, {}, [], "", b"", 0])
    | st.builds(SimpleNamespace)
    | st.builds(lambda value: {"raising": Raising(), "value": value}, values)
    | st.builds(lambda value: CustomMapping({Raising(): value}), values)
    | values.map(_tied)
)
