"""What holds for every test."""

from __future__ import annotations

import torch

# Threads that wait for each other on a busy machine are slower than one.
torch.set_num_threads(1)
