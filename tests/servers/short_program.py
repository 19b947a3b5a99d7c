"""A program of ours that comes to its end by itself."""

import re
import time

from program import Program


class ShortProgram(Program):
    """It prints `leaving at` and the monotonic clock's seconds when it has nothing more to do."""

    def ended(self, statuses=(0,)):
        """Waits until it has ended; returns the seconds that took from when it said that it was leaving."""
        super().ended(statuses)
        ended = time.monotonic()
        said = re.search(r"^leaving at (\S+)$", self.log(), re.MULTILINE)
        assert said is not None, f"it ended before its work was done\n{self.log()}"
        return ended - float(said[1])

    def tracked_by(self, event):
        """The pids that tracked events of this name, each as often as it did."""
        return [int(serial.split("-")[0]) for name, serial in self.journal() if name == event]
