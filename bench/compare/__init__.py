"""Two checkouts of this project beside each other, in one run: is the new one as fast as the old one?

    python -m bench compare OLD NEW
    python -m bench compare ../before . --batches 1,16 --streams 1,16,64 --tolerance 3

OLD and NEW are folders. Both run in the environment of this process, and each takes its modules from its own
folder. In process, each side's worker exports the checkpoint and answers the same prompts; one worker
computes and the other one is stopped. Then fresh processes start on these exports. Over HTTP, both appliances
are up at once, and one of them is under load. In every round both sides do the same work, and each round
begins with the other side. Figures are compared round by round, because load of other processes then affects
both sides. The command ends with status 1 where a figure is worse.
"""
