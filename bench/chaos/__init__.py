"""Faults under a steady load of all four tasks: each accepted task has one outcome, each request an answer.

The command starts two appliances, one after the other: one façade with SQLite and a disk of its own, then two
façades that share PostgreSQL and an S3 store. Both servers come from packages of the extra `test`. While the
load goes on, one fault after another is inflicted, and the time is taken until all four tasks answer again.

These count as broken promises: an accepted task that is not there, or has no outcome at the end; a task that
shows one outcome and later another; a synchronous request without an answer; an error of the server without
Retry-After; a stream that stops without an end. A caller whose connection is cut asks again, as clients do.

The disk fills up only where the command may mount a file system of its own, as root.
"""
