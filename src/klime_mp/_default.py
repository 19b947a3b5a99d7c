"""The program's default client, and the module-level functions that use it."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from klime_mp._client import Client, live_clients
from klime_mp.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from klime_mp._response import BatchResponse

P = ParamSpec("P")
R = TypeVar("R")

# The one key is "client". A dict, because its setdefault is atomic and needs no lock that a fork could inherit held.
_default: dict[str, Client] = {}
_complained: set[str] = set()


def configure(**options: Any) -> Client:
    """Build the program's default client; shuts the previous one down before it returns. Options: see `Client`.

    Raises:
        ConfigurationError: an option is missing, unknown or wrong. The previous default stays as it was then.
    """
    client = Client(**options)
    set_client(client)
    return client


def set_client(client: Client) -> None:
    """Make `client` the default; shuts the previous one down before it returns.

    Raises:
        TypeError: it is not a Client.
    """
    if not isinstance(client, Client):
        raise TypeError(f"set_client() takes a klime_mp.Client, not {type(client).__name__}")
    previous = _default.get("client")
    _default["client"] = client  # at once: other threads go on tracking while the previous one is shut down
    if previous is not None and previous is not client:
        previous.shutdown()


def get_client() -> Client:
    """The default client, built from the environment at first use.

    Raises:
        ConfigurationError: there is none, and the environment does not tell how to build one.
    """
    client = _default.get("client")
    if client is None:
        client = _default.setdefault("client", Client())
    return client


def _async(method: Callable[Concatenate[Client, P], str | None]) -> Callable[P, str | None]:
    """`method` of the default client; when there can be none, one ERROR, and the event is dropped."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> str | None:
        try:
            client = get_client()
        except ConfigurationError as error:
            if not _complained:
                _complained.add("once")
                import logging  # noqa: PLC0415 # as in _client: not when we are imported

                logging.getLogger("klime_mp").error(  # noqa: TRY400 # the text says it all
                    "events are dropped: no default client: %s", error
                )
            return None
        return method(client, *args, **kwargs)

    return _public(call, method)


def _sync(method: Callable[Concatenate[Client, P], R]) -> Callable[P, R]:
    """`method` of the default client; raises ConfigurationError when there can be none."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return method(get_client(), *args, **kwargs)

    return _public(call, method)


def _public(function: Callable[P, R], method: Callable[..., object]) -> Callable[P, R]:
    """Let `help` show the function for what it is: without `self`, and at home in the package."""
    function.__wrapped__ = functools.partial(method, None)  # type: ignore[attr-defined] # what inspect looks at
    function.__module__ = "klime_mp"
    function.__qualname__ = function.__name__
    function.__doc__ = f"`Client.{function.__name__}` of the default client.\n\n{function.__doc__}"
    return function


track = _async(Client.track)
identify = _async(Client.identify)
group = _async(Client.group)
track_sync: Callable[..., BatchResponse] = _sync(Client.track_sync)
identify_sync: Callable[..., BatchResponse] = _sync(Client.identify_sync)
group_sync: Callable[..., BatchResponse] = _sync(Client.group_sync)


def flush(timeout_ms: float | None = None) -> bool:
    """`Client.flush` of the default client; True when there is none, as nothing is pending then."""
    client = _default.get("client")
    return True if client is None else client.flush(timeout_ms)


def shutdown(timeout_ms: float | None = None) -> bool:
    """`Client.shutdown` of the default client; True when there is none, as nothing is pending then."""
    client = _default.get("client")
    return True if client is None else client.shutdown(timeout_ms)


def restart() -> None:
    """`Client.restart` of every live client of this process, not only the default one."""
    for client in live_clients():
        client.restart()
