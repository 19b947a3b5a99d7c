"""Whose exception is it? Some signal handlers raise an `Exception`: Celery's soft time limit does.

It strikes inside whatever call is running and has to pass through it, past every `except Exception` that is there for
what the user's objects or the network raise.
"""

from __future__ import annotations

import signal
import threading


def raised_by_signal(error: BaseException) -> bool:
    """Was `error` raised by a signal handler that interrupted this thread?

    Told by the traceback: the handler's own frame is in it. For `except` clauses, off the hot path.
    """
    if threading.current_thread() is not threading.main_thread():
        return False  # handlers run in the main thread only
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    traceback = error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code in handlers:
            return True
        traceback = traceback.tb_next
    return False
