"""Load over HTTP: open and closed loop, streamed and whole, on LMaaS and on any OpenAI-compatible server.

What is measured, and from when to when:

*Intended time.* In an open loop the schedule is fixed before the first request is sent, and every
latency counts from the time at which the schedule wanted the request to leave, whether or not it left
then: a client that falls behind cannot hide a slow answer (no coordinated omission). In a closed loop a
request is intended at the moment when the answer before it had ended; such a load slows down together
with its server, and only an open loop says how a server stands a given rate.

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

*Tokens* are counted by the token ids in LMaaS's events. OpenAI's events have none: there the answer's
usage tells how many tokens a stream had. Where it had as many events each stands for one; else each with
text stands for one, and for a share of the others as large as its share of the text.

Distributions are of requests that succeeded; the others are counted by kind.
"""
