from __future__ import annotations

import copy
import pickle

import pytest

from klime_mp import ConfigurationError, InvalidEventError, KlimeError, SendError, exceptions

EVENTS = [{"type": "track", "messageId": "m"}]


def test_tree():
    assert KlimeError.__bases__ == (Exception,)
    assert ConfigurationError.__bases__ == (KlimeError, ValueError)
    assert InvalidEventError.__bases__ == (KlimeError, ValueError)
    assert SendError.__bases__ == (KlimeError,)


def test_the_drawing_shows_every_class():
    classes = {name for name in vars(exceptions) if name.endswith("Error")}
    assert {line.split()[1] for line in exceptions.__doc__.splitlines() if "──" in line} == classes


def test_a_send_error():
    error = SendError("no answer", status_code=503, events=EVENTS)
    assert str(error) == error.message == "no answer"
    assert (error.status_code, error.events) == (503, EVENTS)


def test_a_send_error_of_nothing():
    error = SendError("no answer")
    assert (error.status_code, error.events) == (None, [])
    assert SendError("another").events is not error.events


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_send_error_survives_pickling(protocol):
    error = SendError("no answer", status_code=503, events=EVENTS)
    revived = pickle.loads(pickle.dumps(error, protocol))
    assert type(revived) is SendError
    assert vars(revived) == vars(error)
    assert revived.args == error.args
    assert vars(copy.copy(error)) == vars(error)


@pytest.mark.parametrize("kind", [KlimeError, ConfigurationError, InvalidEventError])
def test_the_others_survive_pickling(kind):
    revived = pickle.loads(pickle.dumps(kind("words")))
    assert type(revived) is kind
    assert str(revived) == "words"
