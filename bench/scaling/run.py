"""The command `python -m bench scaling`."""

from __future__ import annotations

from typing import Annotated

import typer

from api.back.cluster.autoscaler import ScalingPolicy
from bench.scaling.curves import DAY, daily, ramp, recorded, spike, step
from bench.scaling.simulation import Simulation, Subject
from cli.show import print_table

CURVES = {
    "step, 5 to 50": (step(5, 50, at=600), 3600),
    "ramp, 5 to 80 in 30 minutes": (ramp(5, 80, 600, 2400), 4000),
    "ramp, 80 to 5 in 30 minutes": (ramp(80, 5, 600, 2400), 4000),
    "a day, 2 to 100": (daily(2, 100), int(DAY)),
    "spike, 60 for a minute": (spike(5, 60, at=600, seconds=60), 2400),
    "recorded hour, mean 40": (recorded(40), 3500),
}


def scaling(
    seed: Annotated[int, typer.Option(help="Of the arrivals.")] = 1,
    load_seconds: Annotated[int, typer.Option(help="Until a new replica answers.", min=1)] = 20,
) -> None:
    """Print what the autoscaler did under each curve of arrivals."""
    subject = Subject(load_seconds=load_seconds)
    rows = []
    for name, (curve, seconds) in CURVES.items():
        enough = int(curve(0) / subject.capacity) + 1
        simulation = Simulation(
            ScalingPolicy(1, 20), subject, measured=subject.capacity, replicas=enough, seed=seed
        )
        run = simulation.run(curve, seconds)
        offered = sum(second.offered for second in run.seconds)
        used = offered / (run.replica_seconds * subject.capacity)
        most = max(second.replicas for second in run.seconds)
        rows.append(
            (name, most, len(run.changes), run.turns, f"{used:.0%}", f"{run.refused() / offered:.2%}")
        )
    print_table(
        ("requests/s", "most replicas", "changes", "turns", "utilisation", "refused"), rows, "no curves"
    )
