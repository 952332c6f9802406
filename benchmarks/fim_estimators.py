"""Where trainings with the Fisher penalty end, for estimators without compiled scores.

    python benchmarks/fim_estimators.py run --estimators mdn gaussian_full nflows_maf
    python benchmarks/fim_estimators.py run --estimators mdn --gradients 256,8,2 128,2,10
    python benchmarks/fim_estimators.py report

`run` trains what `robust-npe train task=... estimator=... defense=fim beta=0.01 seed=...` trains,
on one thread, appends a row to fim_estimators.csv and skips what is there. A gradient is `fast`,
the default of the estimator, or three numbers: rows, interval in steps, and how many times the
usual norm is allowed. The objective is the NLL of 2000 test pairs and beta times the trace of the
Fisher information. `report` prints means and ranges over seeds. Seconds are CPU time of training.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pandas as pd
import torch

from robust_npe.commands.experiment import Experiment
from robust_npe.defenses import FIM
from robust_npe.fisher import fisher_trace
from robust_npe.random import stream
from robust_npe.recipes.composing import composed
from robust_npe.tasks.pairs import draw_pairs
from robust_npe.training import train

TABLE = Path(__file__).with_suffix(".csv")
KEY = ["task", "estimator", "gradient", "seed"]
BETA = 0.01
SIZES = {"train": 10_000, "validation": 512, "test": 2000}


def run_one(task: str, estimator: str, seed: int) -> dict[str, float]:
    """Train and evaluate."""
    words = [f"task={task}", f"estimator={estimator}", "defense=fim", f"beta={BETA}"]
    experiment = Experiment(composed([*words, f"seed={seed}"]))
    pairs = {
        name: draw_pairs(experiment.task, size, stream(seed, "simulate", name))[:2]
        for name, size in SIZES.items()
    }
    trained = experiment._fresh_estimator()
    start = time.process_time()
    both = pairs["train"], pairs["validation"]
    history = train(trained, experiment.defense, *both, experiment.training, stream(seed, "train"))
    seconds = time.process_time() - start
    theta, x = pairs["test"]
    with torch.no_grad():
        nll = float(-trained(x).log_prob(theta).mean())
    trace = float(fisher_trace(trained, x, 5, stream(0, "trace"), attached=False).mean())
    facts = {"epochs": len(history.train_loss), "seconds": seconds}
    return {"nll": nll, "trace": trace, "objective": nll + BETA * trace, **facts}


def run(options: argparse.Namespace) -> None:
    """Fill the table."""
    known = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=KEY)
    done = set(known[KEY].itertuples(index=False, name=None))
    cells = (
        (task, estimator, gradient, seed)
        for task in options.tasks
        for estimator in options.estimators
        for gradient in options.gradients
        for seed in options.seeds
    )
    for cell in cells:
        if cell in done:
            continue
        task, estimator, gradient, seed = cell
        variants = FIM.variants
        if gradient != "fast":
            rows, every, limit = map(int, gradient.split(","))
            variants = {
                key: replace(value, rows=rows, every=every, limit=float(limit))
                for key, value in variants.items()
            }
        with mock.patch.object(FIM, "variants", variants):
            row = dict(zip(KEY, cell, strict=True)) | run_one(task, estimator, seed)
        print(row, flush=True)
        with TABLE.open("a") as file:
            pd.DataFrame([row]).round(3).to_csv(file, header=file.tell() == 0, index=False)


def report() -> None:
    """Print means, and least and greatest objectives, over seeds."""
    cells = pd.read_csv(TABLE).groupby(KEY[:-1])
    table = cells[["nll", "trace", "objective", "epochs", "seconds"]].mean()
    table.insert(3, "lowest", cells.objective.min())
    table.insert(4, "highest", cells.objective.max())
    table.insert(0, "seeds", cells.size())
    print(table.round(2).to_string())


def main() -> None:
    """Read the options and do as they say."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--tasks", nargs="+", default=["lotka_volterra"])
    runs.add_argument("--estimators", nargs="+", default=["mdn"])
    runs.add_argument("--gradients", nargs="+", default=["fast"])
    runs.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    commands.add_parser("report")
    options = parser.parse_args()
    torch.set_num_threads(1)
    run(options) if options.command == "run" else report()


if __name__ == "__main__":
    main()
