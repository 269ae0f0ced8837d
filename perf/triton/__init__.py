"""Triton under load by its own instrument, perf_analyzer: without the façade, by gRPC.

What perf_analyzer 2.50 reports: throughput is requests per second, of a decoupled model also responses per
second. It measures in windows until three in a row agree, or gives up. Of a decoupled model it says that the
first response counts as the latency, but its latencies are those of the last one; times to the first response
and between responses are therefore taken from its export of every request, and tokens are counted by the
ids in the responses.
"""
