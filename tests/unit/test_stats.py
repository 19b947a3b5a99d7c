from __future__ import annotations

import dataclasses

import pytest

import klime_mp
from klime_mp._stats import DROP_REASONS, Ledger, Stats
from support.ledger import assert_balanced

REASONS = ("invalid", "filtered", "too_large", "queue_full", "shutdown", "disabled")


def test_a_new_ledger_is_all_zero():
    stats = Ledger().snapshot(pending=0)
    assert stats == Stats(tracked=0, delivered=0, rejected=0, failed=0, dropped=dict.fromkeys(REASONS, 0), pending=0)
    assert_balanced(stats)


def test_every_reason_is_always_there():
    assert DROP_REASONS == REASONS
    assert tuple(klime_mp.Client(enabled=False).stats().dropped) == REASONS


def test_what_is_counted_where():
    ledger = Ledger()
    ledger.accepted = 20
    ledger.adopted, ledger.handed_over = 4, 1
    ledger.delivered, ledger.rejected, ledger.failed = 9, 2, 3
    ledger.dropped.update(invalid=5, filtered=6, too_large=7, queue_full=2, shutdown=8, disabled=9)
    ledger.requests, ledger.retries = 6, 1
    stats = ledger.snapshot(pending=7)
    assert stats.tracked == 20 + 5 + 6 + 7 + 8 + 9  # who leaves a full queue had been taken in
    assert_balanced(stats)
    assert (stats.requests, stats.retries, stats.pending) == (6, 1, 7)


def test_pending_is_not_computed():
    ledger = Ledger()
    ledger.accepted = 1
    assert ledger.snapshot(pending=5).pending == 5


def test_a_snapshot_stays_as_it_was():
    ledger = Ledger()
    stats = ledger.snapshot(pending=0)
    ledger.dropped["invalid"] += 1
    assert stats.dropped["invalid"] == 0
    stats.dropped["invalid"] = 100
    assert ledger.snapshot(pending=0).dropped["invalid"] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.tracked = 5


def test_all_are_ints():
    stats = Ledger().snapshot(pending=0)
    assert all(type(value) is int for name, value in vars(stats).items() if name != "dropped")
