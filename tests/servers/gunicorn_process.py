"""A real gunicorn in a process of its own, on a free port."""

from __future__ import annotations

import re

from program import APPS, WebServer

HOOKS = APPS / "hooks.py"


class Gunicorn(WebServer):
    """`gunicorn counting:application`, or another application.

    Args:
        folder: See `Program`; gunicorn's control socket is there, too.
        inbox: Where the application's events go.
        *options: gunicorn's command line.
        application: `module:name`.
        klime: Options of the client.
        env: More environment.
    """

    def __init__(self, folder, inbox, *options, application="counting:application", klime=None, env=None):
        super().__init__(
            folder,
            inbox,
            *("python", "-m", "gunicorn", application, *options, "--bind", "fd://{fd}", "--pythonpath", APPS),
            klime=klime,
            # gunicorn's control socket would else be one for all gunicorns of the user.
            env={"XDG_RUNTIME_DIR": folder, **(env or {})},
        )

    def booted(self):
        """The pid of every worker there has been, in order."""
        return [int(pid) for pid in re.findall(r"Booting worker with pid: (\d+)", self.log())]

    def workers(self):
        """The pids of the workers that have not begun to exit."""
        exiting = {int(pid) for pid in re.findall(r"Worker exiting \(pid: (\d+)\)", self.log())}
        return {pid for pid in self.booted() if pid not in exiting}
