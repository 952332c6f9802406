"""Draw Fig. 6, the pyloric network under attack, from the stored runs of its experiment.

    robust-npe train -m experiment=pyloric
    python scripts/figure6.py [--epsilon 0.5]

Takes the newest run of each defense in <output>/runs and its estimator from the store, attacks one
test observation, simulates with parameters from both posteriors, and writes
<output>/figures/figure6.png. The observation is the one whose divergence without a defense is the
median of those attacked, unless --observation names another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from robust_npe.commands.experiment import Experiment
from robust_npe.config import TrainConfig
from robust_npe.divergences import kl
from robust_npe.plotting.pyloric import Example, Scene, pyloric_figure, stacked
from robust_npe.plotting.style import save_figure
from robust_npe.random import draws_from, stream
from robust_npe.store import OBSERVATION_COLUMNS, finished, read_table

TITLES = {"none": "no defense", "fim": "FIM"}


def newest_runs(output: Path) -> dict[str, Path]:
    """Return the newest run of each defense on the task `pyloric`."""
    found: dict[str, Path] = {}
    for run in sorted(finished(output / "runs"), key=lambda run: run.manifest["created"]):
        table = read_table(run.path / "results.csv")
        if table.task.iloc[0] == "pyloric" and "pgd" in set(table.attack):
            found[table.defense.iloc[0]] = run.path
    if "none" not in found:
        command = "robust-npe train -m experiment=pyloric"
        sys.exit(f"No runs of the pyloric network in {output}/runs. First: {command}")
    return {name: found[name] for name in ("none", "fim") if name in found}


def load(run: Path, output: Path) -> Experiment:
    """Return the experiment of a stored run."""
    config = OmegaConf.load(run / "config.yaml")
    config.output_dir = str(output)
    merged = OmegaConf.merge(OmegaConf.structured(TrainConfig), config)
    assert isinstance(merged, DictConfig)
    return Experiment(merged)


def typical(run: Path, epsilon: float) -> int:
    """Return the attacked observation with the median divergence."""
    rows = read_table(run / "observations.csv", OBSERVATION_COLUMNS)
    rows = rows[(rows.metric == "kl_forward") & (rows.epsilon == epsilon)].sort_values("value")
    if rows.empty:
        sys.exit(f"epsilon={epsilon} was not attacked in {run}: choose another with --epsilon")
    return int(rows.observation.iloc[len(rows) // 2])


def example(experiment: Experiment, number: int, epsilon: float, simulations: int) -> Example:
    """Attack one observation and simulate with parameters from both posteriors."""
    task, q = experiment.task, experiment.trained().estimator
    theta, x = experiment.test_set
    ball = experiment.threat.ball(epsilon, task, x)
    one, truth = x[number : number + 1], theta[number : number + 1]
    generator = stream(experiment.seed, "figure6", "attack")
    x_adv = experiment.attack(q, one, truth, ball=ball, generator=generator)
    both = (one, x_adv)
    with torch.no_grad(), draws_from(stream(experiment.seed, "figure6", "samples")):
        samples = stacked([q(o).sample((2000,))[:, 0] for o in both])
    predictive = stacked(
        [
            task.simulate(s[:simulations], stream(experiment.seed, "figure6", "simulate"))
            for s in samples
        ]
    )
    with torch.no_grad():
        generator = stream(experiment.seed, "figure6", "kl")
        divergence = float(kl(q(one), q(x_adv), 2000, generator))
    title = TITLES.get(experiment.defense.name, experiment.defense.name)
    if experiment.defense.beta is not None:
        title += rf" $\beta$={experiment.defense.beta:g}"
    return Example(title, divergence, stacked([o[0] for o in both]), samples, predictive)


def main() -> None:
    """Read the options, draw, write."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="output_dir of runs")
    parser.add_argument("--epsilon", type=float, default=0.5, help="radius of the example")
    parser.add_argument("--observation", type=int, help="number in the test set")
    parser.add_argument("--simulations", type=int, default=16, help="predictive simulations")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = newest_runs(options.output)
    number = options.observation
    if number is None:
        number = typical(runs["none"], options.epsilon)
    experiments = [load(run, options.output) for run in runs.values()]
    examples = [example(e, number, options.epsilon, options.simulations) for e in experiments]
    task = experiments[0].task
    box = task.prior.support.base_constraint
    scene = Scene(
        cells=("AB/PD", "LP", "PY"),
        times=task.times,
        theta=experiments[0].test_set[0][number].cpu(),
        low=box.lower_bound,
        high=box.upper_bound,
        theta_names=task.theta_names,
    )
    table = pd.concat([read_table(run / "results.csv") for run in runs.values()])
    path = options.output / "figures" / "figure6.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(pyloric_figure(scene, examples, table), path)
    print(f"{path}: observation {number}, epsilon {options.epsilon:g}")


if __name__ == "__main__":
    main()
