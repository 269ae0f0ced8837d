"""Every failure drill of docs/operations.md, once, on appliances that it starts: the seconds to recover.

The appliances are as `lmaas up` starts them, with default settings: first one façade with SQLite, then two
façades of one machine with PostgreSQL. While a drill runs, one loop each asks `/health/ready`, `/v1/generate`
and `POST /v1/tasks`. The seconds go from the fault, which may last by itself, until all three are answered
well again; an answer that takes longer than a second had to wait. A drill with an end of its own, as a
rollback, goes to that.

The disk fills up only where the command may mount a file system of its own, as root.
"""
