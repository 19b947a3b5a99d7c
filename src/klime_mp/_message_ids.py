"""Message ids for one process: in the shape of a uuid4, drawn from the system once and counted from there.

Two processes have the same ids only if they draw the same 121 bits. A child that went on with its parent's would repeat
them: so the series belongs to a `ProcessState`, which a child forgets however it was forked.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable


def message_ids() -> Callable[[], str]:
    """What draws the next id of a new series; in any thread, and in a signal handler that interrupted a draw."""
    digits = os.urandom(16).hex()
    # The third group begins with the version, the fourth with the variant.
    prefix = f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[int(digits[16], 16) % 4]}{digits[17:20]}-"
    # From the lower half, so that twelve digits are enough for ever.
    numbers = itertools.count(int(digits[20:], 16) // 2)
    # All of it C: each draw is one step.
    return map(f"{prefix}%012x".__mod__, numbers).__next__
