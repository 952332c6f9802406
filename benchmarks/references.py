"""Computed posteriors against the reference posteriors that sbibm stores: C2ST for each.

    python benchmarks/references.py [--tasks sir two_moons] [--samples 1000] [--to table.csv]

Starts from the prior alone, no trained network. 0.5 means that a classifier cannot tell the two
sets of samples apart; fails where a task exceeds 0.55.
"""

from __future__ import annotations

import argparse
import sys
import time

import pandas as pd
import torch

from robust_npe.metrics import c2st
from robust_npe.random import stream
from robust_npe.reference import ReferenceSettings, reference_posterior
from robust_npe.tasks import SBIBM

BAR = 0.55
TASKS = ("two_moons", "sir", "lotka_volterra", "bernoulli_glm")


def measure(name: str, number: int, settings: ReferenceSettings) -> dict[str, object]:
    """Compute one posterior and compare it with the stored one."""
    task = SBIBM(name)
    reference = task.reference(number)
    started = time.perf_counter()
    p = reference_posterior(task, reference.x, [], stream(0, name, number), settings)
    seconds = time.perf_counter() - started
    score = c2st(reference.samples[: settings.num_samples], p.samples)
    return {
        "task": name,
        "observation": number,
        "c2st": score,
        "method": p.method,
        "ess": p.ess,
        p.diagnostic: p.diagnostic_value,
        "evaluations": p.evaluations,
        "seconds": seconds,
    }


def main() -> int:
    """Print one line per observation and a summary; 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--method", default="auto")
    parser.add_argument("--to", help="CSV file for the table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = ReferenceSettings(num_samples=arguments.samples, method=arguments.method)
    rows = []
    for name in arguments.tasks:
        for number in range(1, SBIBM.num_references + 1):
            rows.append(measure(name, number, settings))
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    if arguments.to:
        table.to_csv(arguments.to, index=False)
    columns = ["c2st", "ess", "evaluations", "seconds"]
    print(table.groupby("task")[columns].agg(["mean", "min", "max"]).round(3).T.to_string())
    return int((table.c2st > BAR).any())


if __name__ == "__main__":
    sys.exit(main())
