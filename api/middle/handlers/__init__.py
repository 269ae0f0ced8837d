"""One Job Handler per task type: picks a model server, calls it, shapes the answer."""
