from __future__ import annotations

import enum
import json
import math
import sys
import traceback
from collections import OrderedDict, UserDict, deque
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from types import MappingProxyType
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klime_mp import _encoding
from klime_mp._encoding import TooLargeError, UnencodableError, decode, encode, write
from support.values import (
    KEYS,
    NUMPY_SCALARS,
    TEXT,
    Account,
    Color,
    CustomMapping,
    Level,
    Plan,
    Point,
    Raising,
    Slotted,
    Text,
    Words,
    json_values,
    values,
)

orjson = pytest.importorskip("orjson", reason="there is nothing to compare")


def encode_without_orjson(value):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_encoding, "orjson", None)
        return encode(value)


EVERY = pytest.mark.parametrize("encoder", [encode, encode_without_orjson, write])


def read(body):
    """Strict UTF-8 JSON, so that it compares exactly: 1 is not 1.0, 0.0 is not -0.0, a key is there once."""
    return json.loads(
        body.decode("utf-8"),
        parse_int=lambda digits: ("int", digits),
        parse_float=lambda number: ("float", repr(float(number))),
        parse_constant=pytest.fail,
        object_pairs_hook=members,
    )


def members(pairs):
    assert len({key for key, _ in pairs}) == len(pairs), "a key is there twice"
    return dict(pairs)


def outcome(encoder, value):
    try:
        return read(encoder(value))
    except (UnencodableError, TooLargeError) as error:
        return type(error)


# --- three encoders, one result


@given(values)
def test_any_value_is_the_same_json_on_every_road(value):
    assert outcome(encode, value) == outcome(encode_without_orjson, value) == outcome(write, value)


@given(json_values)
def test_jsons_own_types_are_the_same_json_on_every_road(value):
    written = outcome(write, value)
    assert outcome(encode, value) == outcome(encode_without_orjson, value) == written != UnencodableError


@given(st.dictionaries(KEYS, st.integers(), max_size=6))
def test_any_key_is_a_string_and_is_there_once(mapping):
    assert read(encode(mapping)) == read(encode_without_orjson(mapping)) == read(write(mapping))


@given(json_values)
def test_what_is_written_is_compact(value):
    body = write(value)
    spaced = json.dumps(json.loads(body), ensure_ascii=False, separators=(",", ":"))
    assert len(body) == len(spaced.encode())


@given(values)
def test_another_parser_takes_it(value):
    body = write(value)
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError:
        assert any(len(digits) > 300 for digits in integers(read(body))), "orjson takes all but integers beyond float"


def integers(value):
    if isinstance(value, tuple):
        return [value[1]]
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [digits for item in inside for digits in integers(item)]


def test_a_plain_tree_is_orjsons_share(monkeypatch):
    monkeypatch.setattr(_encoding, "write", pytest.fail)
    assert encode({"a": [1, (2.5, None, {"b": True})]}) == b'{"a":[1,[2.5,null,{"b":true}]]}'


def test_without_orjson_it_is_the_standard_librarys(monkeypatch):
    monkeypatch.setattr(_encoding, "write", pytest.fail)
    assert encode_without_orjson({"a": [1, (2.5, None, {"b": True})]}) == b'{"a":[1,[2.5,null,{"b":true}]]}'


# --- the rules, one by one

NAIVE = datetime(2026, 11, 22, 10, 0, 0, 123456)  # noqa: DTZ001 # also a value
UTC_PLUS_2 = timezone(timedelta(hours=2))


@EVERY
@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (0, "0"),
        (2**64, str(2**64)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (0.1, "0.1"),
        (-0.0, "-0.0"),
        (math.nan, "null"),
        (math.inf, "null"),
        (-math.inf, "null"),
        ("é😀\u2028", '"é😀\u2028"'),
        ('"\\\n\x00\x1f\x7f', '"\\"\\\\\\n\\u0000\\u001f\x7f"'),
        ("\ud800", '"\ufffd"'),
        ("a\udfffb\ud800", '"a\ufffdb\ufffd"'),
        ("\ud800\ud800x", '"\ufffd\ufffdx"'),
        ("\ud83d\ude00", '"😀"'),  # a pair: neither is lone
        (Text("text"), '"text"'),
        (NAIVE, '"2026-11-22T10:00:00.123456"'),
        (datetime(2026, 11, 22, 10, tzinfo=UTC_PLUS_2), '"2026-11-22T10:00:00+02:00"'),
        (date(2026, 11, 22), '"2026-11-22"'),
        (time(10, 0, 1), '"10:00:01"'),
        (Decimal("12.50"), "12.5"),
        (Decimal(12), "12"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1E+400"), "1" + "0" * 400),
        (Decimal("1E-400"), "0.0"),
        (Decimal("9" * 400 + ".5"), "9" * 400),
        (Decimal("NaN"), "null"),
        (Decimal("sNaN"), "null"),
        (Decimal("-Infinity"), "null"),
        (UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        (Color.RED, '"red"'),
        (Color.NOTHING, "null"),
        (Color.LIST, '[1,"two"]'),
        (Level.LOW, "1"),
        (Plan.FREE, '"free"'),
        ({1}, "[1]"),
        (frozenset({"a"}), '["a"]'),
        ((1, (2,)), "[1,[2]]"),
        (Point(1, 2), "[1,2]"),
        (deque([1, 2]), "[1,2]"),
        ([], "[]"),
        ((), "[]"),
        (set(), "[]"),
        ({}, "{}"),
        (Account("a", Account(None)), '{"name":"a","_secret":{"name":null,"_secret":null}}'),
        (Slotted(1, _hidden=2), '{"seen":1,"_hidden":2}'),
        (Account, f'"{Account}"'),
        (OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        (UserDict(a=1), '{"a":1}'),
        (CustomMapping({"a": 1}), '{"a":1}'),
        (b"caf\xc3\xa9 \xff", '"café \ufffd"'),
        (bytearray(b"abc"), '"abc"'),
        (memoryview(b"abc"), '"abc"'),
        (Words("words"), '"words"'),
        (Words("lone \ud800"), '"lone \ufffd"'),
        (Words(Text("text")), '"text"'),
        (1 + 2j, '"(1+2j)"'),
        (range(2), '"range(0, 2)"'),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_values(encoder, value, written):
    assert encoder(value).decode() == written
    assert encoder({"nested": [value]}).decode() == f'{{"nested":[{written}]}}'


@EVERY
def test_numpy_scalars_are_their_python_values(encoder):
    *written, _ = decode(encoder(NUMPY_SCALARS))
    assert written == [
        True,
        -5,
        2**64 - 1,
        1.5,
        None,
        0.1,
        "2.5",  # a long double has no Python value
        "1j",
        "text",
        "bytes",
        "2026-11-22T10:00:00",
        None,
    ]


@EVERY
@pytest.mark.parametrize("module", [None, object()], ids=["absent", "half-imported"])
def test_without_numpy(encoder, module, monkeypatch):
    monkeypatch.setitem(_encoding.sys.modules, "numpy", module)
    assert encoder([Words("words")]) == b'["words"]'


@EVERY
@pytest.mark.parametrize(
    ("key", "spelled"),
    [
        ("text", "text"),
        (Text("text"), "text"),
        ("lone \ud800", "lone \ufffd"),
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (1, "1"),
        (-(10**20), "-100000000000000000000"),
        (1.5, "1.5"),
        (1e16, "1e+16"),
        (Color.RED, "red"),
        (Color.NOTHING, "null"),
        (Level.LOW, "1"),
        (Plan.FREE, "free"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (b"bytes", "b'bytes'"),
        (date(2026, 11, 22), "2026-11-22"),
        (NAIVE, "2026-11-22 10:00:00.123456"),
        (Decimal("1.50"), "1.50"),
        ((1, "a"), "(1, 'a')"),
        (np.int64(5), "5"),
        (np.float64(0.1), "0.1"),
        (Words("words"), "words"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_keys(encoder, key, spelled):
    assert read(encoder({key: "value"})) == {spelled: "value"}


@EVERY
@pytest.mark.parametrize(
    "mapping",
    [
        {1: "first", "1": "last"},
        {"1": "first", 1: "last"},
        {"true": "first", True: "last"},
        {None: "first", "null": "last"},
        {1.5: "first", "1.5": "last"},
        {"\ud800": "first", chr(0xDFFF): "last"},
        {"words": "first", Words("words"): "last"},
        {"words": "first", Words(Text("words")): "last"},
        {"red": "first", Color.RED: "last"},
    ],
)
def test_of_two_keys_that_become_one_string_the_last_wins(encoder, mapping):
    assert list(read(encoder(mapping)).values()) == ["last"]


@EVERY
@pytest.mark.parametrize("digits", [19, 20, 4300, 4301, 20_000])
def test_integers_of_any_size(encoder, digits):
    number = 10 ** (digits - 1)
    written = b"1" + b"0" * (digits - 1)
    assert encoder([number, -number]) == b"[%s,-%s]" % (written, written)
    assert encoder({number: Decimal(number)}) == b'{"%s":%s}' % (written, written)
    assert decode(encoder([number, {"number": -number}])) == [number, {"number": -number}]


@given(json_values)
def test_decode_reads_what_was_written(value):
    assert read(encode(decode(encode(value)))) == read(encode(value))


# --- nesting

MAKERS = {
    "dict": lambda value: {"a": value},
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "deque": lambda value: deque([value]),
    "dataclass": Account,
    "mapping": lambda value: CustomMapping({"a": value}),
    "mix": lambda value: {"a": [deque([Account((value,))])]},
}
LEVELS = {"dataclass": 1, "mix": 5}


def nested(maker, levels):
    value = "leaf"
    for _ in range(levels // LEVELS.get(maker, 1)):
        value = MAKERS[maker](value)
    return value


def at_depth(frames, function):
    """Call it with that many more callers on the stack."""
    return function() if not frames else at_depth(frames - 1, function)


@EVERY
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("frames", [0, 150])
def test_two_hundred_levels_are_accepted(encoder, maker, frames):
    value = nested(maker, 200)
    body = at_depth(frames, lambda: encoder(value))
    assert body.count(b'"leaf"') == 1
    assert body.count(b"{") + body.count(b"[") == 200


@pytest.mark.parametrize("maker", ["dict", "list", "tuple"])
def test_with_orjson_they_are_accepted_however_deep_the_caller_is(maker):
    value = nested(maker, 200)
    frames = sys.getrecursionlimit() - len(traceback.extract_stack()) - 50
    assert at_depth(frames, lambda: encode(value)).count(b'"leaf"') == 1


def test_what_is_much_is_not_looked_at_to_its_end():
    members = {str(number): number for number in range(1000)}
    assert _encoding._is_plain({"rows": [members] * 90}, keys=False)
    assert not _encoding._is_plain({"rows": [members] * 110}, keys=False)


@EVERY
@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("levels", [1000, 3000, 10_000])
def test_endless_nesting_is_invalid(encoder, maker, levels):
    with pytest.raises(UnencodableError, match="nested"):
        encoder(nested(maker, levels))


def test_every_road_gives_up_at_the_same_level():
    for levels in range(250, 260):
        for maker in ("dict", "list", "tuple"):
            value = nested(maker, levels)
            assert outcome(encode, value) == outcome(encode_without_orjson, value) == outcome(write, value)


# --- what has no JSON


class Endless(enum.Enum):
    """Its value is itself: orjson, if it is let near, follows that until the stack ends."""

    ITSELF = 1


Endless.ITSELF._value_ = Endless.ITSELF


class Opaque(enum.Enum):
    MEMBER = 1

    @property
    def value(self):
        raise RuntimeError("no")


class NoMembers(CustomMapping):
    def __getitem__(self, key):
        raise RuntimeError("no")


class NoKeys(CustomMapping):
    def __iter__(self):
        raise RuntimeError("no")


class NoItems(list):
    def __iter__(self):
        raise RuntimeError("no")


class NoDate(date):
    def isoformat(self):
        raise RuntimeError("no")


def list_in_itself():
    cycle = []
    cycle.append(cycle)
    return cycle


def dict_in_itself():
    cycle = {}
    cycle["deeper"] = [cycle, cycle]
    return cycle


def object_in_itself():
    cycle = Account(deque())
    cycle.name.append(MappingProxyType({"deeper": cycle}))
    return cycle


def half_made():
    made = Slotted(1, 2)
    object.__delattr__(made, "seen")
    return made


@EVERY
@pytest.mark.parametrize(
    "make",
    [
        list_in_itself,
        dict_in_itself,
        object_in_itself,
        half_made,
        Raising,
        lambda: {Raising(): 1},
        lambda: Words(None),
        lambda: NoMembers({"a": 1}),
        lambda: NoKeys({"a": 1}),
        lambda: NoItems([1]),
        lambda: NoDate(2026, 11, 22),
        lambda: Endless.ITSELF,
        lambda: Opaque.MEMBER,
        lambda: Raising(RecursionError),
        lambda: Raising(MemoryError),
    ],
)
def test_what_has_no_json_is_unencodable(encoder, make):
    for value in (make(), {"nested": [1, make()]}):
        with pytest.raises(UnencodableError):
            encoder(value)


@EVERY
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_mere_exception_passes(encoder, error):
    raised = []

    class Interrupted:
        def __str__(self):
            """A signal arrives here, once."""
            if not raised:
                raised.append(error())
                raise raised[0]
            return "nobody noticed"

    with pytest.raises(error):
        encoder({"nested": [Interrupted()]})


@EVERY
def test_a_tree_that_changes_while_it_is_written(encoder):
    """Not only a bad `str()` does that, another thread can; with orjson it crashed the interpreter."""
    tree = {"list": [], "dict": {}}

    class Cutting:
        def __str__(self):
            for container in (tree["list"], tree["dict"]):
                container.clear()
            tree["new"] = "member"
            return "cut"

    tree["list"] += [Cutting(), ["item"] * 3, {"a": object()}]
    tree["dict"].update(a=Cutting(), b=["item"] * 3)
    assert read(encoder(tree))["list"][0] == "cut"


@EVERY
def test_a_mapping_that_changes_while_its_keys_are_spelled(encoder):
    mapping = {}

    class Growing:
        def __str__(self):
            mapping["new"] = "member"
            return "key"

    mapping.update({Growing(): 1, "b": 2})
    assert read(encoder(mapping)) == {"key": ("int", "1"), "b": ("int", "2")}


# --- what is far too large


@EVERY
@pytest.mark.parametrize(
    "value",
    [
        Decimal("1E+999999999"),
        Decimal("1E+300000"),
        1 << 10_000_000,
        {1 << 10_000_000: 1},
        [Words("x" * 10_000_000)],
    ],
    ids=["enormous Decimal", "large Decimal", "int", "key", "str()"],
)
def test_the_writer_gives_up_on_what_cannot_fit(encoder, value):
    with pytest.raises(TooLargeError):
        encoder(value)


@EVERY
def test_what_grows_exponentially_is_not_written_out(encoder):
    value = "leaf"
    for _ in range(60):
        value = [value, value]
    with pytest.raises(TooLargeError):
        encoder(value)


@EVERY
@given(TEXT.filter(bool))
def test_a_hundred_kib_of_anything_fits(encoder, text):
    """The size that the writer counts on the way is never more than what makes an event too large."""
    text *= 100 * 1024 // len(text.encode("utf-8", "surrogatepass"))
    assert encoder([text, {text: [[]] * 1000}])
