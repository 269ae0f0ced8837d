"""Targets of the whole stack, measured on a stack that runs on this machine.

Each command prints its target and whether it holds. What is compared is measured in turn within one run, and
each round begins with another of them, so that the machine's drift affects all of them equally. The HTTP
client shares the cores with the stack: its cost counts against the stack.
"""
