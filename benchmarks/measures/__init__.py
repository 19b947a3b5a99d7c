"""The measures: one small program each, run in a contestant's environment with nothing but the standard library.

`python -m benchmarks.measures.NAME CONTESTANT PARAMETERS`: the parameters are a JSON object, and so is the last line of
its stdout, what it found. A program imports as little as it can: what is imported already is missing from the
contestant's bill.
"""
