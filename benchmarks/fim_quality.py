"""Quality and cost of the fast gradient of the Fisher penalty, against the exact one.

    python benchmarks/fim_quality.py run --tasks gl lv sir hh --seeds 0 1 2 3 4 --gradients fast
    python benchmarks/fim_quality.py run --tasks gl lv sir --seeds 0 1 --gradients exact
    python benchmarks/fim_quality.py report

Trainings have the default settings and end where these do, on one thread; seeds are those of
initial weights and training, simulations are the same for all. `run` appends one row per training
to fim_quality.csv and skips what is there; `report` prints the tables, the spread over seeds of the
objective on test data (NLL, and beta times the trace of the Fisher information), and draws
fim_quality.png. Times are CPU seconds of the whole training, validation included. Among the
gradients, `published` is the exact gradient by automatic differentiation throughout (the same
front, more slowly), and two numbers such as `96,1` are rows and interval of another fast one.

The excess of the fast gradient is how much its test NLL lies above the front of the exact one, at
equal median kl_forward: the exact front is interpolated linearly in log KL between the means over
seeds for each beta (with no defense as one end).
"""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from robust_npe.attacks import PGD, KLForward, data_domain, make_ball, std_unit
from robust_npe.defenses import FIM, Defense, NoDefense
from robust_npe.divergences import kl
from robust_npe.estimators import MAF, MLP, Estimator, Identity
from robust_npe.estimators.autoregressive import AutoregressiveFlow
from robust_npe.fisher import fisher_trace
from robust_npe.random import draws_from, stream
from robust_npe.tasks.base import Task
from robust_npe.tasks.gaussian_linear import GaussianLinear
from robust_npe.tasks.hodgkin_huxley import HodgkinHuxley
from robust_npe.tasks.lotka_volterra import LotkaVolterra
from robust_npe.tasks.sir import SIR
from robust_npe.training import TrainingSettings, train

TABLE = Path(__file__).with_suffix(".csv")
TASKS: dict[str, tuple[type[Task], Any, tuple[float, ...]]] = {
    "gl": (GaussianLinear, Identity, (1e-3, 1e-2, 1e-1)),
    "lv": (LotkaVolterra, Identity, (1e-3, 1e-2, 1e-1)),
    "sir": (SIR, Identity, (1e-3, 1e-2, 1e-1)),
    "hh": (HodgkinHuxley, MLP, (1.0, 10.0, 100.0)),
}
SIZES = {"train": 10_000, "validation": 512, "test": 4000}
EPSILON, NUM_ATTACKED = 0.5, 512
FRONT = ("exact", "published", "none")


def simulate(name: str, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Finite simulations for each purpose."""
    task = TASKS[name][0]()
    data = {}
    for purpose, size in SIZES.items():
        theta = task.sample_prior(size, stream(seed, "prior", purpose)).float()
        x = task.simulate(theta, stream(seed, "simulate", purpose)).float()
        finite = x.isfinite().all(-1)
        data[purpose] = theta[finite], x[finite]
    return data


def evaluate(estimator: Estimator, beta: float, theta: Tensor, x: Tensor) -> dict[str, float]:
    """Test NLL, the objective with 5 samples for the trace, and median KL under attack."""
    with torch.no_grad():
        nll = float(-estimator(x).log_prob(theta).mean())
        trace = fisher_trace(estimator, x, 5, stream(0, "trace"), attached=False)
    ball = make_ball("l2", EPSILON * std_unit(x), domain=data_domain(x))
    clean = x[:NUM_ATTACKED]
    attack = PGD(KLForward(), steps=100)
    moved = attack(estimator, clean, ball=ball, generator=stream(0, "attack"))
    with torch.no_grad():
        divergence = kl(estimator(clean), estimator(moved), 256, stream(0, "kl"))
    objective = nll + beta * float(trace.mean())
    return {"nll": nll, "objective": objective, "kl_forward": float(divergence.median())}


def run_one(
    name: str, seed: int, defense: Defense, data: dict[str, tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """Train and evaluate."""
    task, embedding = TASKS[name][0](), TASKS[name][1]
    with draws_from(stream(seed, "weights")):
        estimator = Estimator(MAF, embedding, task.dim_theta, task.dim_x, task.prior.support)
    both, generator = (data["train"], data["validation"]), stream(seed, "train")
    start = time.process_time()
    history = train(estimator, defense, *both, TrainingSettings(), generator)
    seconds = time.process_time() - start
    facts = {"seconds": seconds, "epochs": len(history.train_loss)}
    return facts | evaluate(estimator, defense.beta or 0.0, *data["test"])


def run(names: list[str], seeds: list[int], gradients: list[str], betas: list[float]) -> None:
    """Fill the table."""
    for seed in seeds:
        for name in names:
            jobs = [(kind, beta) for beta in betas or TASKS[name][2] for kind in gradients]
            data = simulate(name, 0)
            for kind, beta in [("none", 0.0), *jobs]:
                key = {"task": name, "seed": seed, "gradient": kind, "beta": beta}
                if is_known(key):
                    continue
                eager = mock.patch.object(AutoregressiveFlow, "score_method", "inverted")
                with eager if kind == "published" else nullcontext():
                    row = key | run_one(name, seed, make_defense(kind, beta), data)
                print(row, flush=True)
                with TABLE.open("a") as file:
                    pd.DataFrame([row]).to_csv(file, header=file.tell() == 0, index=False)


def make_defense(kind: str, beta: float) -> Defense:
    """Build what is compared."""
    if kind == "none":
        return NoDefense()
    if "," in kind:
        rows, every = map(int, kind.split(","))
        return FIM(beta, rows=rows, every=every)
    return FIM(beta, gradient="exact" if kind == "published" else kind)


def is_known(key: dict[str, Any]) -> bool:
    """Tell whether the table has this row."""
    if not TABLE.exists():
        return False
    table = pd.read_csv(TABLE)
    return bool(np.logical_and.reduce([table[name] == value for name, value in key.items()]).any())


def report() -> None:
    """Print the tables and draw the fronts."""
    table = pd.read_csv(TABLE)
    means = table.groupby(["task", "gradient", "beta"], as_index=False).mean()
    head = ["task", "beta", "gradient", "CPU s", "/ none", "exact / it", "published / it"]
    print("|", " | ".join([*head, "NLL", "KL", "excess NLL"]), "|")
    print("|---" * (len(head) + 3) + "|")
    for name, rows in means.groupby("task"):
        for row in rows.sort_values(["beta", "gradient"]).itertuples():
            ratios = [ratio(table, row, other) for other in ("none", "exact", "published")]
            cost = " | ".join([f"{row.seconds:.1f}", *ratios])
            quality = f"{row.nll:.2f} | {row.kl_forward:.3g}"
            excess = f"{excess_nll(rows, row):+.2f}" if row.gradient not in FRONT else ""
            print(f"| {name} | {row.beta:g} | {row.gradient} | {cost} | {quality} | {excess} |")
    spread = table.groupby(["task", "gradient", "beta"]).objective.agg(["count", "min", "max"])
    print(spread.assign(spread=spread["max"] - spread["min"]).round(3).to_string())
    draw(table, means)


def ratio(table: pd.DataFrame, row: Any, other: str) -> str:
    """Median over seeds of the cost relative to no defense, or of another one relative to it."""
    if row.gradient in ("none", other) or (row.gradient, other) == ("published", "exact"):
        return ""
    seconds = table[table.task == row.task].set_index("seed")
    own = seconds[(seconds.gradient == row.gradient) & (seconds.beta == row.beta)].seconds
    same_beta = (seconds.beta == row.beta) | (other == "none")
    others = seconds[(seconds.gradient == other) & same_beta].seconds
    quotient = (own / others if other == "none" else others / own).median()
    return "" if np.isnan(quotient) else f"{quotient:.2f}"


def excess_nll(rows: pd.DataFrame, row: Any) -> float:
    """How far a point lies above the front of the exact gradient."""
    front = rows[rows.gradient.isin(["exact", "none"])].sort_values("kl_forward")
    x, y = np.log(front.kl_forward.to_numpy()), front.nll.to_numpy()
    at = float(np.log(row.kl_forward))
    i = int(np.clip(np.searchsorted(x, at), 1, len(x) - 1))  # beyond the ends, extrapolate
    slope = (y[i] - y[i - 1]) / (x[i] - x[i - 1])
    return float(row.nll - (y[i - 1] + slope * (at - x[i - 1])))


def draw(table: pd.DataFrame, means: pd.DataFrame) -> None:
    """Test NLL against KL for each task, exact and fast."""
    names = [name for name in TASKS if name in set(table.task)]
    figure = Figure(figsize=(2.8 * len(names), 2.6), layout="constrained")
    styles = {"exact": ("0.7", 3.5), "fast": ("#8856a7", 1.2)}  # the wide one lies below
    for name, axes in zip(names, np.atleast_1d(figure.subplots(1, len(names))), strict=True):
        for kind, (colour, width) in styles.items():
            chosen = partial(_choose, name, kind)
            points, front = chosen(table), chosen(means).sort_values("kl_forward")
            axes.plot(points.kl_forward, points.nll, ".", color=colour, ms=2 * width + 3)
            axes.plot(front.kl_forward, front.nll, color=colour, lw=width, label=kind)
        axes.set(title=name.upper(), xscale="log", xlabel=f"median KL at epsilon {EPSILON}")
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("test NLL (nats)")
    figure.axes[0].legend(frameon=False)
    FigureCanvasAgg(figure)
    figure.savefig(TABLE.with_suffix(".png"), dpi=150)


def _choose(name: str, kind: str, table: pd.DataFrame) -> pd.DataFrame:
    return table[(table.task == name) & table.gradient.isin([kind, "none"])]


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--tasks", nargs="+", default=["gl", "lv", "sir"], choices=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--gradients", nargs="+", default=["fast", "exact"])
    parser.add_argument("--betas", nargs="*", type=float, default=[], help="default: the task's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.command == "report":
        report()
    else:
        run(arguments.tasks, arguments.seeds, arguments.gradients, arguments.betas)


if __name__ == "__main__":
    main()
