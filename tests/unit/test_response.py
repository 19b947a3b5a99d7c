from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import support.values  # noqa: F401 # hypothesis's profile
from klime_mp import BatchResponse, ValidationError
from klime_mp._response import parse_response

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=5,
)
NEARLY_AN_ERROR = st.fixed_dictionaries(
    {}, optional={"index": st.integers(-2, 5) | JSON, "message": JSON, "code": JSON}
)
NEARLY_AN_ANSWER = st.fixed_dictionaries(
    {},
    optional={
        "status": JSON,
        "accepted": JSON,
        "failed": JSON,
        "errors": st.lists(NEARLY_AN_ERROR | JSON, max_size=4) | JSON,
    },
)


def parse(answer, sent=3):
    return parse_response(json.dumps(answer), sent)


def assert_sound(response, sent):
    """Each event of the batch is accepted or rejected, once."""
    assert response.accepted + response.failed == sent
    assert response.failed == len(response.errors) == len(response.rejected)
    assert [error.index for error in response.errors] == sorted(response.rejected)
    assert response.rejected <= set(range(sent))
    for error in response.errors:
        assert type(error.index) is int
        assert isinstance(error.message, str)
        assert isinstance(error.code, str)
    assert isinstance(response.status, str)


def test_all_accepted():
    answer = {"status": "ok", "accepted": 3, "failed": 0, "errors": []}
    assert parse(answer) == BatchResponse("ok", 3, 0, [])


def test_some_rejected():
    errors = [{"index": 2, "message": "no name", "code": "E1"}, {"index": 0, "message": None}]
    answer = {"status": "partial", "accepted": 1, "failed": 2, "errors": errors}
    assert parse(answer) == BatchResponse("partial", 1, 2, [ValidationError(0), ValidationError(2, "no name", "E1")])
    assert parse(answer).rejected == {0, 2}


@pytest.mark.parametrize(
    "body",
    [
        "",
        " ",
        "OK",
        "null",
        "[]",
        "5",
        '"ok"',
        "{",
        "\ufffd",
        "\ufeff{}",
        "<html>",
        '{"errors": ',
        "9" * 10_000,
        "[" * 100_000,
        '{"errors":' * 100_000,
    ],
    ids=lambda body: repr(body[:10]),
)
def test_what_cannot_be_read_counts_as_accepted(body):
    assert parse_response(body, 3) == BatchResponse("ok", 3, 0)


@pytest.mark.parametrize(
    "index", [-1, 3, 10**30, True, False, None, 1.0, "1", [1], {}], ids=lambda index: type(index).__name__
)
def test_what_names_no_event_of_the_batch_is_ignored(index):
    assert parse({"errors": [{"index": index, "message": "m"}, {"index": 1}]}).rejected == {1}


def test_an_event_is_rejected_once():
    assert parse({"errors": [{"index": 1, "message": "a"}, {"index": 1, "message": "b"}]}).failed == 1


def test_the_counts_follow_from_the_errors():
    assert parse({"accepted": 50, "failed": -5, "errors": [{"index": 1}]}).accepted == 2


@pytest.mark.parametrize("errors", [None, {}, "text", 5, [None], [[]], ["text"], [{}]], ids=repr)
def test_errors_that_are_none(errors):
    assert parse({"status": "ok", "errors": errors}) == BatchResponse("ok", 3, 0)


def test_words_that_are_no_text():
    (error,) = parse({"status": 5, "errors": [{"index": 0, "message": {"a": 1}, "code": 5}]}).errors
    assert error == ValidationError(0, "{'a': 1}", "5")


@given(NEARLY_AN_ANSWER, st.integers(0, 4))
def test_any_answer(answer, sent):
    assert_sound(parse(answer, sent), sent)


@given(st.text(), st.integers(0, 4))
def test_any_text(body, sent):
    assert_sound(parse_response(body, sent), sent)


@pytest.mark.parametrize("levels", [100, 300, 900, 2000])
def test_words_that_are_nested_deeply(levels):
    body = '{"errors":[{"index":0,"message":%s}]}' % ("[" * levels + "]" * levels)
    assert_sound(parse_response(body, 1), 1)
