"""Load on Triton by gRPC, without the façade, by perf_analyzer, the tool that NVIDIA made for it.

perf_analyzer 2.50 reports requests per second and, for a decoupled model, responses per second. It measures
in windows until three in a row agree, or gives up. It says that the latency of a decoupled model is that of
the first response, but it reports that of the last one. So the times to the first response and between
responses are taken from its export of every request, and tokens are counted by the ids in the responses.
"""
