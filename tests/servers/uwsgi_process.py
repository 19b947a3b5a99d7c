"""A real uWSGI in a process of its own, on a free port."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
import time
from pathlib import Path
from signal import SIGTERM, SIGUSR2

from program import APPS, POLL_SECONDS, WAIT_SECONDS, WebServer, catches, exists, sleeps

_SPAWNED = r"spawned uWSGI worker (\d+) \(.*?pid: (\d+)"


class Uwsgi(WebServer):
    """uWSGI with two workers, serving `counting.py` or another file of `apps/`.

    Args:
        folder: See `Program`.
        inbox: Where the application's events go.
        *options: uWSGI's command line.
        application: The file.
        klime: Options of the client.
        env: More environment.
        module: A folder to import `pyuwsgi` from, for another version of it.
    """

    def __init__(self, folder, inbox, *options, application="counting.py", klime=None, env=None, module=None):
        run = "import sys, pyuwsgi; pyuwsgi.run(sys.argv[1:])"
        if module is not None:
            run = f"import sys; sys.path.insert(0, {str(module)!r}); import pyuwsgi; pyuwsgi.run(sys.argv[1:])"
        # uWSGI looks for the interpreter's home by itself; this one's environment has to be named.
        home = ("--home", sys.prefix) if Path(sys.prefix, "pyvenv.cfg").exists() else ()
        super().__init__(
            folder,
            inbox,
            *("python", "-c", run, *home, "--http-socket", "fd://{fd}", "--wsgi-file", APPS / application),
            *("--processes", "2", "--die-on-term", "--need-app", "--disable-logging", *options),
            klime=klime,
            env=env,
        )

    def _packages(self):
        # A reload executes the bare interpreter, which knows nothing of a virtual environment.
        return [sysconfig.get_path("purelib")]

    def spawned(self):
        """The pid of every worker there has been, in order."""
        return [int(pid) for _, pid in re.findall(_SPAWNED, self.log())]

    def settle(self):
        """Waits until every worker can be stopped: is there (also one that has to be spawned anew), and in no request.

        A worker that is new has its master's signal handlers at first, and forgets a HUP or a TERM that comes too
        early; the one for USR2 is the last of its own. Stopped in the middle of a request it runs no exit handlers, and
        the client may have the whole answer before the worker is through with that.
        """

        def idle():
            latest = dict(re.findall(_SPAWNED, self.log())).values()
            return all(exists(pid) and sleeps(pid) and catches(pid, SIGUSR2) for pid in map(int, latest))

        self.wait_until(idle, "idle")

    def stop(self, number=SIGTERM, statuses=(0,)):
        self.settle()
        return super().stop(number, statuses)

    def stop_all(self, number, statuses=(0,)):
        """The signal to every process at once, as Ctrl-C sends it, and the only way to stop all without a master."""
        self.settle()
        began = time.monotonic()
        pids = self.spawned()
        os.killpg(self.pid, number)
        self.ended(statuses)
        deadline = began + WAIT_SECONDS
        while any(exists(pid) for pid in pids):
            assert time.monotonic() < deadline, f"workers are still there\n{self.log()}"
            time.sleep(POLL_SECONDS)
        return time.monotonic() - began
