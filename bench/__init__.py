"""The laboratory: the engine beside its targets, its peers and a GPU's limit. It is not installed.

    python -m bench --help

`LOG.md` has every optimization that was tried, `reference/` the reports to compare with. A peer's process
imports this package in an environment that has nothing else of ours, so it imports nothing here.
"""
