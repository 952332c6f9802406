"""Draw Fig. 6, the pyloric network under attack, from the stored runs of its experiment.

    robust-npe train -m experiment=figure6/laptop
    python scripts/figure6.py [--epsilon 0.5]

Takes the newest run without a defense in <output>/runs and the newest with FIM and equal settings,
one test observation as both runs attacked it, simulates with parameters from its posteriors, and
writes <output>/figures/figure6.png. The observation is the one whose divergence without a defense
is the median of those attacked, unless --observation names another.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf

from robust_npe.checks import ConfigError
from robust_npe.commands.evaluation import perturbed
from robust_npe.commands.experiment import Experiment
from robust_npe.commands.runs import stored_estimators
from robust_npe.config import TrainConfig
from robust_npe.plotting import NothingToDrawError, save_figure
from robust_npe.plotting.names import defense_name, line_name
from robust_npe.plotting.pyloric import Example, Scene, pyloric_figure, stacked
from robust_npe.random import draws_from, stream
from robust_npe.store import Store, StoreError, collect, read_yaml_config
from robust_npe.tasks.pyloric import CELLS

COMMAND = "robust-npe train -m experiment=figure6/laptop"
EQUAL = ["estimator", "num_simulations", "data_seed", "norm", "epsilon_unit", "domain"]
EQUAL += ["objective", "attack_settings"]


def newest_runs(table: pd.DataFrame) -> dict[str, str]:
    """Return the id of the newest run of each defense, of those with the settings of the newest
    run without one."""
    runs = table[(table.task == "pyloric") & (table.attack == "pgd")].drop_duplicates("run_id")
    undefended = runs[runs.defense == "none"]
    if undefended.empty:
        raise StoreError(f"there are no runs of the pyloric network; first: {COMMAND}")
    alike = (runs[EQUAL] == undefended[EQUAL].iloc[-1]).all(axis=1)
    found = dict(zip(runs[alike].defense, runs[alike].run_id, strict=True))  # the last one stays
    if "fim" not in found:
        sys.stderr.write(f"drawn without FIM, which no run has with equal settings: {COMMAND}\n")
    return {name: found[name] for name in ("none", "fim") if name in found}


def load(folder: Path) -> Experiment:
    """Return the experiment of a stored run, with the estimator that it used."""
    output = folder.parent.parent
    config = read_yaml_config(folder / "config.yaml")
    config |= {"output_dir": str(output), "device": "cpu"}
    merged = cast(DictConfig, OmegaConf.merge(OmegaConf.structured(TrainConfig), config))
    store = Store(output / "store")
    return Experiment(merged, store, members=stored_estimators(store, folder))


def divergences(runs: Path, run_id: str, epsilon: float) -> pd.Series:
    """Return the divergence of each observation that a run attacked."""
    rows = collect(runs, "observations")
    attacked = (rows.metric == "kl_forward") & (rows.attack != "none") & (rows.epsilon == epsilon)
    rows = rows[(rows.run_id == run_id) & attacked]
    if rows.empty:
        raise StoreError(f"run {run_id} lacks kl_forward at radius {epsilon:g}: see --epsilon")
    return rows.set_index("observation").value


def typical(values: pd.Series) -> int:
    """Return the observation with the median divergence."""
    return int(values.sort_values().index[len(values) // 2])


def example(
    experiment: Experiment, number: int, epsilon: float, divergence: float, simulations: int
) -> Example:
    """Simulate with parameters from the posteriors of one observation, clean and attacked."""
    trained, count = experiment.trained(), experiment.evaluation.num_attacked
    theta, x = (t[:count] for t in experiment.test_set)
    x_adv = perturbed(experiment, trained, theta, x, epsilon).x_adv  # stored by the run
    both = (x[number : number + 1], x_adv[number : number + 1])
    seed = experiment.seeds.evaluation
    with torch.no_grad(), draws_from(stream(seed, "figure6", "samples")):
        samples = stacked([trained.estimator(o).sample((2000,))[:, 0] for o in both])
    noise = [stream(seed, "figure6", "simulate") for _ in both]  # the same for both
    drawn = zip(samples, noise, strict=True)
    predictive = stacked([experiment.task.simulate(s[:simulations], g) for s, g in drawn])
    defense = experiment.defense
    title = line_name("defense", defense_name(defense.name, defense.beta, defense.epsilon))
    return Example(title, divergence, stacked([o[0] for o in both]), samples, predictive)


def draw(options: argparse.Namespace) -> str:
    """Draw, write, and say what was drawn."""
    folder, epsilon, number = options.output / "runs", options.epsilon, options.observation
    table = collect(folder)
    runs = newest_runs(table)
    moved = {name: divergences(folder, run, epsilon) for name, run in runs.items()}
    if number is None:
        number = typical(moved["none"])
    if number not in moved["none"].index:
        raise StoreError(f"observation {number} was not attacked: see --observation")
    experiments = {name: load(folder / run) for name, run in runs.items()}
    task = experiments["none"].task
    if not task.traces:
        raise StoreError("the newest run has statistics instead of traces, which are not drawn")
    examples = [
        example(e, number, epsilon, float(moved[name][number]), options.simulations)
        for name, e in experiments.items()
    ]
    box, theta = task.prior.support.base_constraint, experiments["none"].test_set[0][number]
    limits = (box.lower_bound, box.upper_bound)
    scene = Scene(CELLS, task.times, theta.cpu(), *limits, task.theta_names)
    path = options.output / "figures" / "figure6.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = table[table.run_id.isin(runs.values())].sort_values("defense", ascending=False)
    save_figure(pyloric_figure(scene, examples, drawn), path)
    return f"{path}: observation {number}, epsilon {epsilon:g}"


def main() -> int:
    """Read the options and draw."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="output_dir of runs")
    parser.add_argument("--epsilon", type=float, default=0.5, help="radius of the example")
    parser.add_argument("--observation", type=int, help="number in the test set")
    parser.add_argument("--simulations", type=int, default=16, help="predictive simulations")
    torch.set_num_threads(1)
    try:
        print(draw(parser.parse_args()))
    except (ConfigError, NothingToDrawError, StoreError, OSError) as error:
        sys.stderr.write(f"Fig. 6: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
