"""The same work side by side: our engine and the other ways to run GPT-2 on a CPU, in one run.

    python -m perf.peers install
    python -m perf.peers run

Every peer is one file with a worker in it, which runs as a process of its own in an environment of its own
under var/peers and answers JSON lines (`protocol`). One worker computes at a time; the others are stopped.
"""
