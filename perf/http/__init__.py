"""Load over HTTP: open and closed loop, streamed and whole, on LMaaS and on any OpenAI-compatible server.

The terms:

*Intended time.* In an open loop the schedule is fixed before the first request is sent. Every latency counts
from the time that the schedule has for the request, even if the client sent it later: a client that falls
behind cannot hide a slow answer (no coordinated omission). In a closed loop the intended time of a request is
the moment when the answer before it ended. A closed loop slows down together with its server; only an open
loop shows how a server handles a given rate.

*Window.* The load runs through a warm-up first, whose requests are not measured. Latencies are those of
the requests intended within the window; the last of them are waited for, while nothing new is sent.
Throughput is what arrives within the window, of all requests, divided by its length.

*Arrival.* The time at which the read returned that brought the last byte of an event. Events that came
in one read arrived together.

*First token.* From the intended time to the first event that carries a token. *Between events.* From one
event that carries tokens to the next of its stream. *Between tokens.* An event that brings k tokens g
seconds after the one before counts as k intervals of g / k; tokens that came with the first token have
no interval, as they belong to the first. *End to end.* From the intended time to the end of the answer.
*Fairness.* The longest end-to-end time over the median one: of streams that ask for the same, the
slowest over the typical.

*Tokens* are counted by the token ids in LMaaS's events. OpenAI's events have none: there the usage at the
end has the number of tokens. If the stream had the same number of events, each counts as one token. Otherwise
each event with text counts as one token, plus a share of the remaining tokens in proportion to its text.

Distributions are of requests that succeeded; the others are counted by kind.
"""
