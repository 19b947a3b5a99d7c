"""What a program's start pays: importing the package, and building a client, which may import the rest.

Hardly anything is imported before the clocks start, as a module that is there already would cost nothing.
"""

from __future__ import annotations

import importlib
import os
import sys
import time

import benchmarks.contestants  # noqa: F401 # the package itself is nobody's cost

NOWHERE = "http://127.0.0.1:9"  # nothing is sent


def measure(contestant: str, endpoint: str) -> dict[str, float]:
    """Milliseconds of wall clock and of processor time."""
    start, cpu = time.perf_counter(), time.process_time()
    adapter = importlib.import_module(f"benchmarks.contestants.{contestant}")
    imported = time.perf_counter()
    client = adapter.make(endpoint, None, None)
    built, used = time.perf_counter(), time.process_time()
    del client
    numbers = {"import_ms": imported - start, "built_ms": built - start, "built_cpu_ms": used - cpu}
    return {name: seconds * 1000 for name, seconds in numbers.items()}


if __name__ == "__main__":
    result = measure(sys.argv[1], NOWHERE)
    import json  # not before: some contestants import it

    print(json.dumps(result), flush=True)
    os._exit(0)
