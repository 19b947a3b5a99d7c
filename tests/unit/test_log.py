from __future__ import annotations

import logging

import pytest

from klime_mp._log import QUIET_SECONDS, RateLimitedLog


class Lines(logging.Logger):
    """A logger that keeps (level, line)."""

    def __init__(self):
        super().__init__("lines")
        self.lines = []

    def handle(self, record):
        self.lines.append((record.levelname, record.getMessage()))


class Bench:
    """A log whose clock stands still until it is told."""

    def __init__(self, logger=None):
        self.now = 1000.0
        self.logger = Lines() if logger is None else logger
        self.log = RateLimitedLog(self.logger, lambda: self.now, lambda text: text.replace("secret", "…"))

    def new_lines(self):
        lines, self.logger.lines = self.logger.lines, []
        return lines


@pytest.fixture
def bench():
    return Bench()


class Spelled:
    """Notes how often it was written out."""

    def __init__(self):
        self.times = 0

    def __str__(self):
        self.times += 1
        return "spelled"


def test_arguments_are_written_out_only_with_the_line(bench):
    word = Spelled()
    for _ in range(3):
        bench.log("kind", logging.WARNING, "100 %% %s", word)
    assert bench.new_lines() == [("WARNING", "100 % spelled")]
    assert word.times == 1


def test_one_line_of_a_kind_in_ten_seconds(bench):
    assert QUIET_SECONDS == 10
    bench.log("invalid", logging.WARNING, "first")
    assert bench.new_lines() == [("WARNING", "first")]
    for _ in range(500):
        bench.now += 0.01
        bench.log("invalid", logging.WARNING, "another")
    bench.now = 1009.99
    bench.log("invalid", logging.WARNING, "another")
    assert bench.new_lines() == []
    bench.now = 1010
    bench.log("invalid", logging.WARNING, "last")
    assert bench.new_lines() == [("WARNING", "last (and 501 more before that)")]


def test_what_is_counted_is_events(bench):
    bench.log("queue_full", logging.WARNING, "first", count=100)
    bench.log("queue_full", logging.WARNING, "second", count=20)
    bench.log("queue_full", logging.WARNING, "third", count=3)
    bench.now += QUIET_SECONDS
    bench.log("queue_full", logging.WARNING, "fourth", count=50)
    assert bench.new_lines() == [("WARNING", "first"), ("WARNING", "fourth (and 23 more before that)")]


def test_nothing_was_left_out(bench):
    for _ in range(3):
        bench.log("invalid", logging.WARNING, "line")
        bench.now += QUIET_SECONDS
    assert bench.new_lines() == [("WARNING", "line")] * 3


def test_each_kind_by_itself(bench):
    for kind in ("invalid", "failed", "invalid", "failed"):
        bench.log(kind, logging.ERROR, kind)
    assert bench.new_lines() == [("ERROR", "invalid"), ("ERROR", "failed")]


def test_a_summary_says_what_was_left_out(bench):
    bench.log("invalid", logging.WARNING, "line")
    bench.log("failed", logging.ERROR, "line")
    for _ in range(2):
        bench.log("failed", logging.ERROR, "line", count=20)
    bench.new_lines()
    bench.log.summarise()
    assert bench.new_lines() == [("ERROR", "failed: 40 more")]
    bench.log.summarise()
    assert bench.new_lines() == []


def test_what_a_summary_said_is_not_said_again(bench):
    bench.log("failed", logging.ERROR, "line")
    bench.log("failed", logging.ERROR, "line")
    bench.log.summarise()
    bench.now += QUIET_SECONDS
    bench.log("failed", logging.ERROR, "last")
    assert bench.new_lines()[-1] == ("ERROR", "last")


def test_a_secret_is_taken_out(bench):
    bench.log("failed", logging.ERROR, "the secret")
    assert bench.new_lines() == [("ERROR", "the …")]


def test_a_per_cent_sign_is_no_format(bench):
    bench.log("failed", logging.ERROR, "100 %s %d %")
    assert bench.new_lines() == [("ERROR", "100 %s %d %")]


class Broken:
    def log(self, *_args):
        raise RuntimeError("a broken logger")


@pytest.mark.parametrize("logger", [Broken(), object(), None], ids=["raises", "is none", "is None"])
def test_a_broken_logger_breaks_nothing(logger):
    log = RateLimitedLog(logger, lambda: 1000.0, str)
    log("failed", logging.ERROR, "line")
    log("failed", logging.ERROR, "line")
    log.summarise()


def test_a_broken_redaction_breaks_nothing():
    logger = Lines()
    log = RateLimitedLog(logger, lambda: 1000.0, lambda _text: 1 / 0)
    log("failed", logging.ERROR, "secret")
    assert logger.lines == []


def test_an_interrupt_passes(bench):
    def interrupt(*_):
        raise KeyboardInterrupt

    bench.logger.log = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench.log("failed", logging.ERROR, "line")


def test_a_handler_that_logs_again_ends(bench):
    """A handler may track an event, which may fail in the same way."""

    def again(*_):
        bench.log("failed", logging.ERROR, "again")

    bench.logger.handle = again
    bench.log("failed", logging.ERROR, "line")
    bench.now += QUIET_SECONDS
    del bench.logger.handle
    bench.log("failed", logging.ERROR, "last")
    assert bench.new_lines() == [("ERROR", "last (and 1 more before that)")]
