"""Events of a process that only loads the program: kept there, and delivered by one of the workers forked from it.

uWSGI's master imports the application, forks, and never runs Python again; a thread of ours in it could deadlock its
workers. So nothing is sent there. Each worker inherits a copy of what was held, also one that is respawned much later,
and a pipe with one byte in it: reading that byte is atomic, so one worker gets it and delivers, and all others find the
pipe empty and forget. Without a master the loading process becomes a worker itself, and takes part like the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from klime_mp import _host
from klime_mp._descriptor import Descriptor

if TYPE_CHECKING:
    from klime_mp._dispatch import Dispatch
    from klime_mp._sender import Sender
    from klime_mp._spool import Place, Spool
    from klime_mp._steps import Evicted, Refused

# What each client that was built in a loading process does in a worker. Inherited, and strong: a client that was
# dropped while the program was loading may have events all the same.
_arrivals: list[Callable[[], None]] = []


def keep(arrive: Callable[[], None]) -> None:
    """In a process that only loads: have a client's `arrive` called in every worker."""
    _arrivals.append(arrive)


def arrive() -> None:
    """In a worker: settle for every client who delivers what was held. Elsewhere, or again, it does nothing."""
    for each in _arrivals:
        each()


class Claim:
    """The right to deliver what one process holds: a pipe that holds one byte, shared by the whole family."""

    def __init__(self) -> None:
        self._pipe: Descriptor | None = None
        self._byte = bytearray(1)
        try:
            number, entrance = os.pipe()
        except OSError:  # no descriptor to be had: then there is no right, either
            return
        os.set_blocking(number, False)
        os.write(entrance, b"!")
        os.close(entrance)
        self._pipe = Descriptor(number)

    def take(self) -> bool:
        """Get it, if nobody in the family was faster; the one who got it may ask again."""
        # Read into a buffer by one C call: no signal's exception can come between the byte and the knowledge of it.
        # Programs that become daemons close what they inherited: then nobody can know, and this one does not deliver.
        if not self._byte[0] and self._pipe is not None and self._pipe.is_open():
            try:
                os.readv(self._pipe.number, [self._byte])
            except OSError:  # a child that was forked in the middle of making it still has the other end
                pass
        return bool(self._byte[0])

    def __del__(self) -> None:
        if self._pipe is not None and self._pipe.is_open():
            os.close(self._pipe.number)


class Hold:
    """The sender's stand-in while a process only loads: takes events in, sends none.

    Args:
        sender: takes over when the process turns out to be a worker, or ends.
        dispatch: the state of both.
        spool: begins when the process turns out to be a worker.
    """

    def __init__(self, sender: Sender, dispatch: Dispatch, spool: Spool) -> None:
        self.claim = Claim()
        self._sender = sender
        self._dispatch = dispatch
        self._spool = spool

    @property
    def exit_timeout(self) -> float | None:
        """As the sender's."""
        return self._sender.exit_timeout

    def holds(self) -> bool:
        """Does this process still only load? When it does not, what it held has been settled."""
        if self._dispatch.holding and _host.only_loads():
            _host.on_arrival(arrive)  # again, should the program have put something else there
            return True
        if self._dispatch.holding:
            self._begin()
        return False

    def _begin(self) -> None:
        """The process is a worker: what it held and may deliver is kept on disk first, like all that comes."""
        self._spool.begin()
        if self.claim.take():
            places = {serial: self._spool.append(body) for serial, _, body, _ in self._dispatch.held()}
            kept = {serial: place for serial, place in places.items() if place is not None}
            self._spool.acknowledge(self._dispatch.place(kept))  # those that another thread has sent meanwhile
        self._dispatch.release(self.claim.take)

    def accept(self, body: bytes, place: Place | None = None) -> Evicted | Refused:
        """Take an event in."""
        if not self.holds() and place is None and self._dispatch.refusal is None:
            place = self._spool.append(body)  # it may have been this very event that began the spool
        return self._sender.accept(body, place)

    def flush(self, deadline: float, mark: float | None = None) -> bool:
        """False at once when there is anything to send, as it is not sent here."""
        return not self._dispatch.has_work() if self.holds() else self._sender.flush(deadline, mark)

    def drain(self, deadline: float, refusal: str | None = None) -> bool:
        """The same, for a shutdown; what was held before it is delivered by a worker."""
        if not self.holds():
            return self._sender.drain(deadline, refusal)
        self._dispatch.begin_closing(deadline, refusal)
        self._dispatch.end_closing(deadline)
        return not self._dispatch.has_work()

    def has_work(self) -> bool:
        """Is anything held?"""
        return self._dispatch.has_work()

    def hurry(self, deadline: float) -> bool:
        """The process ends without having become a master, say because the application could not be loaded: send."""
        self._dispatch.release(self.claim.take)
        return self._sender.hurry(deadline)

    def tidy(self) -> None:
        """Nothing is on disk."""

    def relax(self, deadline: float) -> None:
        """The hurry is over."""
        self._sender.relax(deadline)
