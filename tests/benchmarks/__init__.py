"""Speed, measured: `make bench`, or `python -m tests.benchmarks [name …]`. Not collected by pytest.

Each file has a `run()` that gives rows of the README's table. A baseline and the workbench are measured side
by side in one process, both are checked to have computed the same thing, and a missed floor fails the run.
"""
