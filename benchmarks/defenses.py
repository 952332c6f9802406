"""Which defense gives most robustness for the likelihood it costs?

    python benchmarks/defenses.py run        # hours on two cores; continues where it was stopped
    python benchmarks/defenses.py report     # the tables, from the stored runs

Every defense has one setting that trades likelihood for robustness. Its front is the lowest KL
under attack that it reaches for a given loss of likelihood on clean data, interpolated between the
measured settings, where no defense at all is the first point of every front. Comparing defenses at
equal loss of likelihood is the only fair way: any of them can be made as robust as one likes.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from robust_npe import cli
from robust_npe.plotting.names import defense_name
from robust_npe.store import collect

TASKS = ("gaussian_linear", "lotka_volterra", "sir")
INNER = "defense.warm_start=true defense.steps=5"
COMMON: dict[str, tuple[str, ...]] = {
    "none": ("",),
    "fim": tuple(f"beta={b}" for b in (0.001, 0.01, 0.1)),
    "noise": tuple(f"defense.epsilon={e}" for e in (0.5, 2.0)),
    "spectral": tuple(f"defense.gain={g}" for g in (1.0, 1.4)),
    "ensemble": ("",),
    "adversarial_training": tuple(f"{INNER} defense.epsilon={e}" for e in (1.0, 0.3)),
    "trades": tuple(f"{INNER} beta={b}" for b in (0.1, 1.0)),
}
NOISY_BASE = "defense@defense.base=noise defense.base.epsilon=2.0 evaluation.num_attacked=64"
SMOOTHING = tuple(f"{NOISY_BASE} defense.sigma={s}" for s in (0.25, 0.5))
# what moves a defense from weak to strong depends on the scale of x and theta
STRENGTHS: dict[str, dict[str, tuple[str, ...]]] = {
    "gaussian_linear": {
        "dro": ("defense.epsilon=0.1", "defense.epsilon=0.3"),
        "jacobian": ("beta=0.1", "beta=1.0"),
    },
    "lotka_volterra": {
        "dro": ("defense.epsilon=0.3", "defense.epsilon=1.0"),
        "jacobian": ("beta=0.1", "beta=1.0"),
    },
    "sir": {
        "dro": ("defense.epsilon=0.1", "defense.epsilon=0.3"),
        "jacobian": ("beta=0.01", "beta=0.1"),
    },
}
COSTS = (0.1, 0.3, 1.0)
EPSILON = 0.5
KEYS = ["task", "seed", "defense", "beta", "defense_epsilon", "defense_settings"]


def commands(seeds: list[int], output: Path) -> list[list[str]]:
    """Return the words of each command, the first seed first."""
    shared = [
        f"epsilon={EPSILON}",
        "attack=auto",
        "metric=[nll,coverage,divergence]",
        "evaluation.num_attacked=256",  # 64 for smoothing, each x of which is 64 network passes
        "plots=false",
        f"output_dir={output}",
    ]

    def settings(task: str) -> list[str]:
        own = {**COMMON, **STRENGTHS[task], "smoothing": SMOOTHING}
        return [f"defense={defense} {s}" for defense, strengths in own.items() for s in strengths]

    words = [
        ["train", f"task={task}", f"seed={seed}", *shared, *strength.split()]
        for seed, task in itertools.product(seeds, TASKS)
        for strength in settings(task)
    ]
    return sorted(words, key=lambda command: "defense=smoothing" in command)  # the slowest last


def points(output: Path) -> pd.DataFrame:
    """Return one row for each network: mean NLL and coverage error on clean data, median KL under
    attack, by task, seed, defense and its settings."""
    table = collect(output / "runs")
    wanted = {
        "nll": (table.attack == "none") & (table.metric == "nll") & (table.statistic == "mean"),
        "coverage": (table.attack == "none")
        & (table.metric == "coverage")
        & (table.statistic == "mean_absolute_error"),
        "kl": (table.attack.str.startswith("auto"))
        & (table.epsilon == EPSILON)
        & (table.metric == "kl_forward")
        & (table.statistic == "median"),
    }
    columns = {
        name: table[rows].drop_duplicates(KEYS, keep="last") for name, rows in wanted.items()
    }
    series = [part.set_index(KEYS).value.rename(name) for name, part in columns.items()]
    return pd.concat(series, axis=1).dropna(subset=["nll", "kl"]).reset_index()


def front(cost: np.ndarray, kl: np.ndarray, at: float) -> float:
    """Return the lowest KL for a loss of likelihood of `at` nats, log-linear between the points
    that no other one beats; the first point is that of no defense."""
    order = np.argsort(cost)
    cost, log_kl = cost[order], np.minimum.accumulate(np.log(np.maximum(kl[order], 1e-4)))
    return float(np.exp(np.interp(at, cost, log_kl)))


def fronts(table: pd.DataFrame) -> pd.DataFrame:
    """Return the KL of each task, seed and defense at each cost."""
    rows = []
    for (task, seed), part in table.groupby(["task", "seed"]):
        plain = part[part.defense == "none"]
        if plain.empty:
            continue
        start = plain.iloc[0]
        for defense, own in part[part.defense != "none"].groupby("defense"):
            both = pd.concat([plain, own])
            cost, kl = (both.nll - start.nll).to_numpy(), both.kl.to_numpy()
            at = {c: front(cost, kl, c) for c in COSTS}
            rows.append({"task": task, "seed": seed, "defense": defense, 0.0: start.kl, **at})
    return pd.DataFrame(rows)


def report(output: Path) -> str:
    """Return both tables as Markdown: fronts, and the networks behind them."""
    table = points(output)
    lines = ["| task | defense | " + " | ".join(f"KL at +{c:g} nats" for c in COSTS) + " | seeds |"]
    lines.append("|---" * (3 + len(COSTS)) + "|")
    for (task, defense), part in fronts(table).groupby(["task", "defense"]):
        cells = [_cell(part[c]) for c in COSTS]
        lines.append(f"| {task} | {defense} | {' | '.join(cells)} | {len(part)} |")
    lines += [
        "",
        "| task | defense | NLL | coverage error | KL under attack |",
        "|---|---|---|---|---|",
    ]
    table = table.assign(name=[_name(row) for row in table.itertuples()])
    for (task, name), part in table.groupby(["task", "name"], sort=True):
        cells = [_cell(part[c]) for c in ("nll", "coverage", "kl")]
        lines.append(f"| {task} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _name(row: object) -> str:
    values = [getattr(row, key) for key in KEYS[2:]]
    others = values.pop()
    return defense_name(*values, "" if isinstance(others, float) and math.isnan(others) else others)


def _cell(values: pd.Series) -> str:
    middle = f"{values.median():.3g}"
    return middle if len(values) < 2 else f"{middle} ({values.min():.3g} to {values.max():.3g})"


def main() -> None:
    """Run the experiments, or report on them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("--output", type=Path, default=Path("outputs/defenses"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--part", default="0/1", help="i/n: every n-th command, from the i-th")
    arguments = parser.parse_args()
    if arguments.what == "run":
        first, step = map(int, arguments.part.split("/"))
        failed = [
            w for w in tqdm(commands(arguments.seeds, arguments.output)[first::step]) if cli.main(w)
        ]
        sys.exit("\n".join(" ".join(words) for words in failed) or 0)
    sys.stdout.write(report(arguments.output) + "\n")


if __name__ == "__main__":
    main()
