"""What a program does with `multiprocessing`: mp_program.py START_METHOD SHAPE. Every process tracks."""

import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from journal import client, track

TASKS = 30
WORKERS = 2
TASKS_PER_CHILD = 5


def work(number):
    track("Worked")
    return number


def work_with(passed, number):
    """The client came as an argument: pickled, unless the process was forked for it."""
    track("Worked", client=passed)
    return number


def processes(context):
    children = [context.Process(target=work, args=(number,)) for number in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4


def pool(context, **options):
    workers = context.Pool(WORKERS, **options)
    assert workers.map(work, range(TASKS), chunksize=1) == list(range(TASKS))
    workers.close()
    workers.join()


def maxtasksperchild(context):
    pool(context, maxtasksperchild=TASKS_PER_CHILD)


def executor(context):
    with ProcessPoolExecutor(WORKERS, mp_context=context) as workers:
        assert list(workers.map(work, range(TASKS))) == list(range(TASKS))


def argument(context):
    child = context.Process(target=work_with, args=(client, 0))
    child.start()
    child.join()
    assert child.exitcode == 0
    workers = context.Pool(WORKERS)
    workers.starmap(work_with, [(client, number) for number in range(TASKS)], chunksize=1)
    workers.close()
    workers.join()


if sys.argv[1] == "spawn":
    # Each child imports this module, and so tracks, before multiprocessing has set it up as a child.
    track("Imported")

if __name__ == "__main__":
    method, shape = sys.argv[1:]
    track("Began")
    globals()[shape](multiprocessing.get_context(method))
    track("Finished")
    print("leaving at", time.monotonic())
