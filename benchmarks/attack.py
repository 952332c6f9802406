"""The standard evaluation against plain PGD, on trained networks: strength and cost.

    robust-npe train -m task=gaussian_linear,lotka_volterra,sir \
        defense=none,fim,trades,adversarial_training
    python benchmarks/attack.py --runs outputs

Each finished run is attacked on the same observations, at each radius and in both directions of KL,
by `paper_pgd`, `pgd` and `auto`, one thread, one process. KL: medians over observations, judged on
1024 fresh samples. Share: observations at which auto reaches 0.97 times paper_pgd or more. Cost:
CPU time of the process, as a multiple of paper_pgd's in the same direction; the methods alternate,
and the cheapest of the repeats counts. Writes attack.csv beside this file and prints tables in
Markdown.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from robust_npe.attacks import PGD, Attack, KLForward, KLReverse, PaperPGD, StandardEvaluation
from robust_npe.attacks.halving import Problem, values
from robust_npe.checks import ConfigError
from robust_npe.commands.experiment import Experiment
from robust_npe.commands.runs import stored_estimators
from robust_npe.components import Component
from robust_npe.random import stream
from robust_npe.store import Store, finished, read_yaml_config

TASKS = ("gaussian_linear", "lotka_volterra", "sir")
DEFENSES = ("none", "fim", "trades", "adversarial_training")
DIRECTIONS = {"forward": KLForward, "reverse": KLReverse}
METHODS: dict[str, type[Attack]] = {"paper_pgd": PaperPGD, "pgd": PGD, "auto": StandardEvaluation}
JUDGING = 1024


def experiments(output: Path, only: Sequence[str]) -> list[tuple[str, Experiment]]:
    """The finished runs of the cells with their ids, sorted; those chosen, or all."""
    store, found = Store(output / "store"), []
    for run in finished(output / "runs"):
        if only and run.path.name not in only:
            continue
        config = read_yaml_config(run.path / "config.yaml")
        try:
            experiment = Experiment(config, store, store, stored_estimators(store, run.path))
        except ConfigError as error:
            print(f"left out {run.path.name}: {error}", file=sys.stderr)
            continue
        if experiment.task.name in TASKS and experiment.defense.name in DEFENSES:
            found.append((run.path.name, experiment))
    order = {name: i for i, name in enumerate((*TASKS, *DEFENSES))}
    return sorted(found, key=lambda pair: tuple(order[part.name] for part in parts(pair[1])))


def parts(experiment: Experiment) -> tuple[Component, Component]:
    """What names a cell."""
    return experiment.task, experiment.defense


def timed(attack: Attack, problem: Problem, repeats: int) -> tuple[Tensor, float]:
    """Return x~ and the CPU seconds of the fastest repeat."""
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        x_adv = attack.search(*problem, stream(0, "attack")).x_adv
        seconds.append(time.process_time() - start)
    return x_adv, min(seconds)


def rows(
    experiment: Experiment,
    run: str,
    num: int,
    epsilon: float,
    repeats: int,
    directions: Sequence[str],
) -> Iterator[Any]:
    """Yield one row for each direction of KL."""
    theta, x = experiment.test_set
    posterior = experiment.trained().posterior
    problem = Problem(posterior, x[:num], theta[:num], experiment.ball(epsilon))
    for direction in directions:
        objective, reached, seconds = DIRECTIONS[direction](), {}, {}
        for name, method in METHODS.items():
            x_adv, seconds[name] = timed(method(objective), problem, repeats)  # type: ignore[call-arg]
            reached[name] = values(problem, objective, [x_adv], JUDGING, stream(1, "judge"))[0]
        yield {
            "task": experiment.task.name,
            "defense": experiment.defense.name,
            "beta": experiment.defense.beta,
            "defense_epsilon": experiment.defense.epsilon,
            "seed": experiment.seeds.training,
            "run_id": run,
            "direction": direction,
            "epsilon": epsilon,
            "num_observations": num,
            **{name: float(value.median()) for name, value in reached.items()},
            "share": float((reached["auto"] >= 0.97 * reached["paper_pgd"]).float().mean()),
            **{f"{name}_seconds": value for name, value in seconds.items()},
            "cost": seconds["auto"] / seconds["paper_pgd"],
        }


def markdown(table: pd.DataFrame) -> Iterator[str]:
    """The table of each direction."""
    for direction, part in table.groupby("direction", sort=False):
        yield f"\nKL {direction}\n"
        yield "| task | defense | epsilon | paper_pgd | pgd | auto | auto / paper | share | cost |"
        yield "|---|---|---|---|---|---|---|---|---|"
        for row in part.itertuples():
            kinds = (row.beta, row.defense_epsilon)
            strength = " ".join(f"{number:g}" for number in kinds if pd.notna(number))
            reached = " | ".join(f"{value:.3g}" for value in (row.paper_pgd, row.pgd, row.auto))
            yield (
                f"| {row.task} | {row.defense} {strength} | {row.epsilon:g} | {reached} | "
                f"{row.auto / row.paper_pgd:.2f} | {row.share:.2f} | {row.cost:.1f} |"
            )


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("outputs"))
    parser.add_argument("--observations", type=int, default=128)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.1, 0.5, 2.0])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS, default=[*DIRECTIONS])
    parser.add_argument("--only", nargs="*", default=[], help="ids of runs")
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table: list[Any] = []
    for run, experiment in experiments(arguments.runs, arguments.only):
        for epsilon in arguments.epsilons:
            given = (run, arguments.observations, epsilon, arguments.repeats)
            table += rows(experiment, *given, arguments.directions)
            pd.DataFrame(table).to_csv(arguments.csv, index=False)
    print("\n".join(markdown(pd.DataFrame(table))))


if __name__ == "__main__":
    main()
