from __future__ import annotations

import pytest

from klime_mp.collector._batch import MalformedBatchError, read_batch


def texts(body):
    return [sent.text for sent in read_batch(body)]


def test_members_keep_the_text_they_were_sent_as():
    body = b' {"sentAt" : [1, {"batch": []}], "batch" : [ {"a": 1.10} ,\n{"b":"\\u00e9"},3 ] , "x": "}]" } '
    assert texts(body) == ['{"a": 1.10}', '{"b":"\\u00e9"}', "3"]


def test_values_are_what_the_text_means():
    assert [sent.value for sent in read_batch(b'{"batch":[{"a":[1,{"b":null}]},"]",[]]}')] == [
        {"a": [1, {"b": None}]},
        "]",
        [],
    ]


def test_empty_batch():
    assert read_batch(b'{"batch":[]}') == []


def test_the_last_batch_of_an_envelope_counts():
    assert texts(b'{"batch":5,"batch":[1],"batch":[2,3]}') == ["2", "3"]


def test_integers_of_any_size():
    digits = "9" * 100_000
    assert texts(b'{"batch":[{"n":%s}]}' % digits.encode()) == [f'{{"n":{digits}}}']


def test_non_ascii_and_lone_surrogates():
    assert texts('{"batch":["é😀","\\ud800"]}'.encode()) == ['"é😀"', '"\\ud800"']


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"nonsense",
        b"[]",
        b"null",
        b"{}",
        b'{"batch":{}}',
        b'{"batch":null}',
        b'{"batch":[1],"batch":2}',
        b'{"batch":[1,]}',
        b'{"batch":[1 2]}',
        b'{"batch":[]} x',
        b'{"batch":["\xff"]}',
        b'\xef\xbb\xbf{"batch":[]}',
        b'{"batch":[NaN]}',
        b'{"batch":[Infinity]}',
        b'{"batch":[-Infinity]}',
        b'{"batch":[],"more":NaN}',
        b'{"batch":[' + b"[" * 200_000,
        b'{"batch":[' + b",".join([b"1"] * 101) + b"]}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_malformed(body):
    with pytest.raises(MalformedBatchError):
        read_batch(body)


def test_a_hundred_members_are_not_too_many():
    assert len(read_batch(b'{"batch":[' + b",".join([b"1"] * 100) + b"]}")) == 100


def test_200_levels_of_nesting():
    assert len(read_batch(b'{"batch":[' + b"[" * 200 + b"]" * 200 + b"]}")) == 1
