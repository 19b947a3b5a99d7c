"""multiprocessing and concurrent.futures: every start method, every way to have children."""

from functools import partial

from program import APPS
from short_program import ShortProgram

from scenarios import NEVER, scenario

METHODS = ("fork", "spawn", "forkserver")
# What is called in apps/mp_program.py: how many events its children track, and how many children do at least.
SHAPES = {
    "Process": ("processes", 4, 4),
    "Pool, close and join": ("pool", 30, 1),
    "Pool with maxtasksperchild": ("maxtasksperchild", 30, 6),
    "ProcessPoolExecutor": ("executor", 30, 1),
    "the client as an argument": ("argument", 31, 2),
}


def run(method, shape, events, children, folder, inbox):
    # Only a full batch, and a process's end, send anything.
    command = ("python", APPS / "mp_program.py", method, shape)
    with ShortProgram(folder, inbox, *command, klime={"flush_interval": NEVER}) as program:
        seconds = program.ended()
    workers = program.tracked_by("Worked")
    assert len(workers) == events, program.log()
    assert len(set(workers)) >= children, program.log()
    assert set(program.tracked_by("Finished")) == {program.pid}
    assert program.pid not in workers
    if method == "spawn":
        # A pool may also have had a worker for whom no task was left.
        assert {program.pid, *workers} <= set(program.tracked_by("Imported"))
    return seconds


for start in METHODS:
    for label, (function, at_events, at_children) in SHAPES.items():
        scenario("multiprocessing", f"{start}: {label}")(partial(run, start, function, at_events, at_children))
