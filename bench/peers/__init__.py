"""The same work side by side: our engine and other ways to run GPT-2 on a CPU, in one run.

    python -m bench peers install
    python -m bench peers run

Every peer is one file with a worker, which runs as its own process in its own environment under var/peers and
answers JSON lines (`protocol`). One worker computes at a time; the others are stopped.
"""
