"""uvicorn: no exit handler runs when it is stopped, so that the flush is the lifespan's."""

from functools import partial

from uvicorn_process import Uvicorn

from scenarios import NEVER, scenario

APPLICATIONS = {
    "FastAPI(lifespan=lifespan)": "fastapi_app:with_lifespan",
    "a lifespan around ours": "fastapi_app:with_its_own_lifespan",
    "LifespanMiddleware": "fastapi_app:with_middleware",
    "LifespanMiddleware around an application without lifespan": "counting_asgi:with_lifespan",
    "LifespanMiddleware around Django": "django_app:with_lifespan",
}
NEEDS = {"fastapi_app": ("fastapi",), "django_app": ("django",)}
WORKERS = 2


def term(application, options, folder, inbox):
    """Nothing is sent by the clock, and no batch is full."""
    with Uvicorn(folder, inbox, *options, application=application, klime={"flush_interval": NEVER}) as server:
        assert server.load(12) == 12, server.log()
        assert not inbox.serials()
        seconds = server.stop()
    assert "Application shutdown complete" in server.log()
    return seconds


for label, each in APPLICATIONS.items():
    needs = ("uvicorn", *NEEDS.get(each.partition(":")[0], ()))
    scenario("uvicorn", f"{label}: TERM", needs=needs)(partial(term, each, ()))

scenario("uvicorn", f"{WORKERS} workers, LifespanMiddleware: TERM", needs=("uvicorn", "fastapi"))(
    partial(term, "fastapi_app:with_middleware", ("--workers", str(WORKERS)))
)
scenario("uvicorn", f"{WORKERS} workers, FastAPI(lifespan=lifespan): TERM", needs=("uvicorn", "fastapi"))(
    partial(term, "fastapi_app:with_lifespan", ("--workers", str(WORKERS)))
)
