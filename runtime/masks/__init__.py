"""Token masks: which tokens may come next where a text has to follow a grammar.

A stranger's grammar may take any time and memory, or overflow the stack of the library that compiles it. So
each request with a grammar has a process, which ends with it: `server` compiles and computes masks there,
`client` asks from the engine. `preparation` keeps the wait for the compilation out of the engine's steps.
"""

from runtime.masks.client import MaskServer, TokenMasks
from runtime.masks.preparation import Preparations

__all__ = ["MaskServer", "Preparations", "TokenMasks"]
