"""The ids of events: each a uuid4, and none of them twice."""

from __future__ import annotations

import threading
import uuid

from klime_mp._message_ids import message_ids

MANY = 1000


def test_they_are_uuid4():
    draw = message_ids()
    for text in [draw() for _ in range(MANY)] + [message_ids()() for _ in range(MANY)]:
        found = uuid.UUID(text)
        assert (found.version, found.variant) == (4, uuid.RFC_4122)
        assert str(found) == text


def test_each_digit_that_may_be_random_is():
    """Of processes: what one draws after the other need not be."""
    drawn = [message_ids()() for _ in range(MANY)]
    for place, digits in enumerate(map(set, zip(*drawn, strict=True))):
        if place in (8, 13, 18, 23):
            assert digits == {"-"}
        elif place == 14:
            assert digits == {"4"}
        elif place == 19:
            assert digits == set("89ab")
        else:
            assert len(digits) >= 8, (place, digits)


def test_none_is_drawn_twice():
    """Neither by threads at once, nor by two processes."""
    shared, drawn = message_ids(), [[] for _ in range(4)]
    threads = [
        threading.Thread(target=lambda mine: mine.extend(shared() for _ in range(10_000)), args=(mine,))
        for mine in drawn
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    others = [message_ids() for _ in range(10)]
    every = [text for mine in drawn for text in mine] + [other() for other in others for _ in range(MANY)]
    assert len(set(every)) == len(every) == 40_000 + 10 * MANY
