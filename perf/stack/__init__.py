"""Targets of the whole stack, each with the command that measures it on a stack that runs on this machine.

    lmaas perf stack in-process      tokens per second over HTTP beside the engine in this process
    lmaas perf stack facade          what the façade adds to the time until the first token
    lmaas perf stack classify        texts per second over HTTP beside a bare session
    lmaas perf stack long-prompts    times between tokens while long prompts arrive
    lmaas perf stack memory          resident memory of all processes, empty and with full slots
    lmaas perf stack start           seconds from an artifact on disk to the first answer

Each prints its target and whether it holds. What is compared is measured in turn within one run, each round
beginning with another, so that the machine's drift falls on both alike. The client of HTTP shares the cores
with the stack: what it costs counts against the stack.
"""
