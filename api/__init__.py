"""The façade: front (HTTP), middle (tasks), back (models, servers). Imports run front -> middle -> back."""

import os

# Read when grpc is imported. Its fork handlers start a thread in each child that uvloop forks, which can
# crash the child before it has become its program (tests/api/test_forks.py).
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
