"""Whose exception is it? Some signal handlers raise an `Exception`: Celery's soft time limit does.

It strikes inside whatever call is running and has to pass through it, past every `except Exception` that is there for
what the user's objects or the network raise.
"""

from __future__ import annotations

import inspect
import threading
from types import FrameType
from typing import Any

# How far to look back: urllib3 and requests wrap an error three times.
_LINKS = 8


def raised_by_signal(error: BaseException) -> bool:
    """Was `error`, or what it was raised from, raised by a signal handler that interrupted this thread?

    For `except` clauses, off the hot path. Told by the traceback: the interpreter calls a handler with a number and the
    frame that it interrupted, so a handler's frame has its own caller among its arguments.
    """
    if threading.current_thread() is not threading.main_thread():
        return False  # handlers run in the main thread only
    at: BaseException | None = error
    for _ in range(_LINKS):
        if at is None:
            break
        traceback = at.__traceback__
        while traceback is not None:
            if _is_handler(traceback.tb_frame):
                return True
            traceback = traceback.tb_next
        at = at.__cause__ or at.__context__
    return False


def _is_handler(frame: FrameType) -> bool:
    interrupted = frame.f_back
    if interrupted is None:
        return False
    # Arguments, not any variable: a function may look at its caller's frame for reasons of its own.
    code = frame.f_code
    count = code.co_argcount + code.co_kwonlyargcount + bool(code.co_flags & inspect.CO_VARARGS)
    arguments: list[Any] = []
    for name in code.co_varnames[:count]:
        value = frame.f_locals.get(name)
        arguments += value if isinstance(value, tuple) else [value]
    return any(each is interrupted for each in arguments) and any(isinstance(each, int) for each in arguments)
