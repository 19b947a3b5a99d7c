"""A real uvicorn in a process of its own, on a free port."""

from __future__ import annotations

from signal import SIGTERM

from program import WebServer


class Uvicorn(WebServer):
    """uvicorn, with an application of `apps/`.

    Args:
        folder: See `Program`.
        inbox: Where the application's events go.
        *options: uvicorn's command line.
        application: `module:name`.
        klime: Options of the client.
        env: More environment.
    """

    def __init__(self, folder, inbox, *options, application, klime=None, env=None):
        super().__init__(
            folder,
            inbox,
            *("python", "-m", "uvicorn", application, "--fd", "{fd}", *options),
            klime=klime,
            env=env,
        )

    def stop(self, number=SIGTERM, statuses=(0, -SIGTERM)):
        """Ends it; a uvicorn without workers ends itself by the signal it got, when it has shut down."""
        return super().stop(number, statuses)
