from __future__ import annotations

import random
import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

import support.values  # noqa: F401 # hypothesis's profile
from klime_mp._clock import NEVER
from klime_mp._retry import MAX_BACK_OFF, MAX_RETRY_AFTER, Fate, Patience, RetryPolicy, parse_retry_after
from klime_mp._transport import Answer

NOW = datetime(2026, 11, 22, 10, tzinfo=timezone.utc)
WALL = NOW.timestamp()
POLICY = RetryPolicy(attempts=5, initial_delay=1.0)


def judge(answer, attempt=1, policy=POLICY):
    return policy.judge(answer, attempt, wall=WALL, random=lambda: 1.0)


# --- what an answer means


@pytest.mark.parametrize("status", [200, 201, 202, 204, 226, 299])
def test_any_2xx_is_delivered(status):
    assert judge(Answer(status, retry_after="5")).fate is Fate.DELIVERED


@pytest.mark.parametrize("status", [408, 425, 429, 500, 501, 502, 503, 504, 520, 599])
def test_what_may_pass_is_tried_again(status):
    verdict = judge(Answer(status))
    assert (verdict.fate, verdict.wait, verdict.hold) == (Fate.RETRY, 1.0, None)
    assert str(status) in verdict.because


def test_no_answer_is_tried_again():
    verdict = judge(Answer(None, "ConnectionRefusedError: refused"))
    assert (verdict.fate, verdict.wait) == (Fate.RETRY, 1.0)
    assert verdict.because == "ConnectionRefusedError: refused"


@pytest.mark.parametrize("status", [400, 402, 404, 405, 406, 409, 410, 411, 412, 415, 418, 422, 426, 451, 499])
def test_other_4xx_are_final(status):
    verdict = judge(Answer(status, retry_after="5"))
    assert (verdict.fate, verdict.hold, verdict.refused_key) == (Fate.GIVE_UP, None, False)
    assert str(status) in verdict.because


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_final_and_said_so(status):
    verdict = judge(Answer(status))
    assert (verdict.fate, verdict.refused_key) == (Fate.GIVE_UP, True)
    assert "write key" in verdict.because


def test_a_body_that_is_too_large_is_split():
    assert judge(Answer(413)).fate is Fate.SPLIT
    assert judge(Answer(413), attempt=5).fate is Fate.SPLIT


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_redirects_are_final_and_say_where(status):
    verdict = judge(Answer(status, location="https://elsewhere.example"))
    assert verdict.fate is Fate.GIVE_UP
    assert "to https://elsewhere.example" in verdict.because
    assert judge(Answer(status)).fate is Fate.GIVE_UP


@pytest.mark.parametrize("status", [0, 100, 101, 199])
def test_what_is_no_answer_at_all_is_final(status):
    assert judge(Answer(status)).fate is Fate.GIVE_UP


@given(st.integers(100, 599), st.integers(1, 5))
def test_every_status_has_a_fate(status, attempt):
    verdict = judge(Answer(status), attempt)
    assert verdict.fate is Fate.DELIVERED or verdict.because


def test_what_the_endpoint_wrote_is_quoted():
    assert (
        judge(Answer(400, body="no  such\nthing \ufffd")).because == "the endpoint answered 400: no such thing \ufffd"
    )
    assert len(judge(Answer(400, body="x" * 100_000)).because) < 300


@pytest.mark.parametrize("answer", [Answer(503), Answer(429), Answer(None, "timeout")], ids=["503", "429", "timeout"])
def test_after_the_last_attempt_it_is_given_up(answer):
    assert [judge(answer, attempt).fate for attempt in range(1, 6)] == [Fate.RETRY] * 4 + [Fate.GIVE_UP]
    assert judge(answer, 5).because.endswith("; tried 5 times")
    assert judge(answer, 1, RetryPolicy(1, 1.0)).because.endswith("; tried once")


def test_the_last_answer_may_hold_the_other_batches():
    verdict = judge(Answer(429, retry_after="30"), attempt=5)
    assert (verdict.fate, verdict.hold) == (Fate.GIVE_UP, 30)


def test_a_retry_after_replaces_the_back_off():
    verdict = judge(Answer(503, retry_after="30"))
    assert (verdict.fate, verdict.wait, verdict.hold) == (Fate.RETRY, 0, 30)


@pytest.mark.parametrize("useless", ["soon", "0", "-5", ""])
def test_a_useless_retry_after_does_not(useless):
    verdict = judge(Answer(503, retry_after=useless))
    assert (verdict.wait, verdict.hold) == (1.0, None)


# --- back-off


def test_the_back_off_doubles_up_to_sixteen_seconds():
    assert MAX_BACK_OFF == 16
    assert [POLICY.back_off(attempt, lambda: 1.0) for attempt in range(1, 8)] == [1, 2, 4, 8, 16, 16, 16]
    assert [POLICY.back_off(attempt, lambda: 0.0) for attempt in range(1, 8)] == [0.5, 1, 2, 4, 8, 8, 8]
    assert RetryPolicy(5, 60.0).back_off(1, lambda: 1.0) == 16


@given(st.floats(0.001, 100), st.integers(1, 10_000), st.integers(0, 2**32))
def test_the_back_off_is_between_half_and_all_of_it(initial, attempt, seed):
    exact = min(16.0, initial * 2.0 ** min(attempt - 1, 1000))
    assert exact / 2 <= RetryPolicy(5, initial).back_off(attempt, random.Random(seed).random) <= exact


# --- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("30", 30),
        (" 30 ", 30),
        ("1.5", 1.5),
        ("300", 300),
        ("301", 300),
        ("9" * 5000, 300),
        ("0", None),
        ("0.0", None),
        ("-5", None),
        ("+5", None),
        ("5s", None),
        ("1e2", None),
        ("0x10", None),
        ("1_000", None),
        ("٣", None),  # a digit, but not one of HTTP's
        ("nan", None),
        ("inf", None),
        ("", None),
        (" ", None),
        ("soon", None),
        ("5, 10", None),
        ("Sun, 22 Nov 2026 10:00:30 GMT", 30),
        ("Sunday, 22-Nov-26 10:00:30 GMT", 30),
        ("Sun Nov 22 10:00:30 2026", 30),
        ("Sun, 22 Nov 2026 12:00:30 +0200", 30),
        ("Sun, 22 Nov 2026 10:00:30 -0000", 30),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 300),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300),
        ("Sun, 22 Nov 2026 09:59:59 GMT", None),
        ("Sun, 22 Nov 2026 10:00:00 GMT", None),
        ("Sun, 06 Nov 1994 08:49:37 GMT", None),
        ("Sun, 99 Nov 2026 10:00:30 GMT", None),
        ("Sun, 22 Nov 2026 99:00:30 GMT", None),
        ("Sun, 22 Nov 99999 10:00:30 GMT", None),
        ("Sun, 22 Nov 2026 10:00:30 +9999999", None),
    ],
)
def test_retry_after(value, seconds):
    assert MAX_RETRY_AFTER == 300
    assert parse_retry_after(value, WALL) == seconds


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
@pytest.mark.parametrize("date", ["Sun Nov 22 10:00:30 2026", "Sun, 22 Nov 2026 10:00:30 -0000"])
def test_a_date_without_a_zone_is_utc_wherever_we_are(zone, date, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert parse_retry_after(date, WALL) == 30
    finally:
        monkeypatch.undo()
        time.tzset()


@given(st.integers(1, 299))
def test_a_date_is_what_was_meant(seconds):
    assert parse_retry_after(format_datetime(NOW + timedelta(seconds=seconds), usegmt=True), WALL) == seconds


DATE_PIECES = [
    "Sun,",
    "Sun",
    "22",
    "Nov",
    "2026",
    "10:00:30",
    "10.00",
    "GMT",
    "-0000",
    "+9999",
    "(",
    '"',
    "-",
    "١٢",
    "99999",
]


@given(st.text() | st.lists(st.sampled_from(DATE_PIECES)).map(" ".join))
def test_nonsense_never_raises(text):
    seconds = parse_retry_after(text, WALL)
    assert seconds is None or 0 < seconds <= 300


# --- how long a batch waits, and what a shutdown does to that


class Waiting:
    """A batch whose tries fail, at the time that the test says."""

    def __init__(self):
        self._patience = Patience()

    def failed(self, *, resume_at, closing=NEVER):
        self._patience.back_off(resume_at, closing)
        return self

    def next_try(self, now, *, hold=-NEVER, closing=NEVER):
        start = self._patience.next_try(now, hold, closing)
        return start if start is None else max(now, start)


def test_the_first_try_is_now():
    assert Waiting().next_try(100) == 100
    assert Waiting().next_try(100, closing=105) == 100


def test_a_back_off_is_waited_for():
    waiting = Waiting().failed(resume_at=104)
    assert waiting.next_try(100) == 104
    assert waiting.next_try(104) == 104


def test_a_hold_is_waited_for():
    assert Waiting().next_try(100, hold=130) == 130
    assert Waiting().failed(resume_at=104).next_try(100, hold=103) == 104
    assert Waiting().failed(resume_at=104).next_try(100, hold=130) == 130


def test_a_shutdown_cuts_a_back_off_to_one_last_try():
    waiting = Waiting().failed(resume_at=104)
    assert waiting.next_try(100, closing=110) == 100
    assert waiting.failed(resume_at=104, closing=110).next_try(101, closing=110) is None


def test_each_shutdown_has_its_last_try():
    """The client was restarted while one had its own."""
    waiting = Waiting().failed(resume_at=116)
    assert waiting.next_try(100, closing=105) == 100
    waiting.failed(resume_at=120)
    assert waiting.next_try(101) == 120
    assert waiting.next_try(102, closing=107) == 102


def test_a_shutdown_after_the_back_off_cut_nothing():
    """The try that is due anyway is no last try: more may follow before the deadline."""
    waiting = Waiting().failed(resume_at=99)
    assert waiting.next_try(100, closing=110) == 100
    assert waiting.failed(resume_at=102, closing=110).next_try(101, closing=110) == 102


def test_a_back_off_in_a_shutdown_is_waited_for_when_it_fits():
    waiting = Waiting().failed(resume_at=104, closing=110)
    assert waiting.next_try(100, closing=110) == 104
    assert waiting.failed(resume_at=108, closing=110).next_try(104, closing=110) == 108


@pytest.mark.parametrize("resume_at", [110, 111, 1000])
def test_a_back_off_in_a_shutdown_that_does_not_fit_is_one_last_try(resume_at):
    waiting = Waiting().failed(resume_at=resume_at, closing=110)
    assert waiting.next_try(100, closing=110) == 100
    assert waiting.failed(resume_at=resume_at, closing=110).next_try(101, closing=110) is None


def test_a_hold_is_never_cut():
    assert Waiting().next_try(100, hold=105, closing=110) == 105
    assert Waiting().failed(resume_at=104).next_try(100, hold=105, closing=110) == 105
    for hold in (110, 130):
        assert Waiting().next_try(100, hold=hold, closing=110) is None
        assert Waiting().failed(resume_at=104).next_try(100, hold=hold, closing=110) is None


@pytest.mark.parametrize("closing", [99, 100])
def test_after_the_deadline_nothing_is_tried(closing):
    assert Waiting().next_try(100, closing=closing) is None
    assert Waiting().failed(resume_at=104).next_try(100, closing=closing) is None


def test_a_closer_deadline_cuts_what_fitted_before():
    waiting = Waiting().failed(resume_at=104, closing=110)
    assert waiting.next_try(100, closing=110) == 104
    assert waiting.next_try(101, closing=103) == 101


def test_when_the_shutdown_is_over_the_back_offs_go_on():
    """`restart()` opens a client again while a batch is under way."""
    waiting = Waiting().failed(resume_at=104)
    assert waiting.next_try(100, closing=110) == 100
    assert waiting.failed(resume_at=108, closing=110).next_try(101) == 108


SECONDS = st.floats(0, 20)
TRIES = st.lists(st.tuples(SECONDS, SECONDS, st.none() | SECONDS, st.floats(-5, 20)), max_size=8)


@given(TRIES)
def test_a_batch_and_a_shutdown(tries):
    """No try at or after the deadline, nor within a hold; a try before its time is the last."""
    waiting, now, resume_at, closing = Waiting(), 100.0, -NEVER, NEVER
    in_a_back_off = cut_short = False
    for passed, back_off, closes_in, hold_for in tries:
        now += passed
        hold = now + hold_for
        if closing == NEVER and closes_in is not None:
            closing = now + closes_in
        in_a_back_off |= closing < NEVER and resume_at > now
        start = waiting.next_try(now, hold=hold, closing=closing)
        if closing == NEVER:
            assert start == max(now, hold, resume_at)
        elif cut_short or max(now, hold) >= closing:
            assert start is None
        elif start is None:
            assert in_a_back_off
        else:
            assert max(now, hold) <= start < closing
            cut_short = start < resume_at
        if start is None:
            return
        now, resume_at = start, start + back_off
        waiting.failed(resume_at=resume_at, closing=closing)
