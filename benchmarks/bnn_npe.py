"""Bayesian neural posterior estimation: posteriors over the weights of a flow as a defense.

    python benchmarks/bnn_npe.py [--output outputs]     # an hour of one core; continues

10 000 simulations, PGD with KL(q || q~) in L2 at 0.5 standard deviations of x, 256 observations.
Every defense is one training, except the ensemble, which is five; at equal cost each network
of it has a fifth of the epochs that training without a defense took.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robust_npe.commands import train
from robust_npe.commands.experiment import Experiment
from robust_npe.recipes.composing import composed

TASKS = ("sir", "lotka_volterra")
DEFENSES = {
    "none": ("defense=none",),
    "swag": ("defense=swag",),
    "vi": ("defense=vi",),
    "ensemble": ("defense=ensemble",),
    "ensemble, equal cost": ("defense=ensemble", "training.max_epochs={fifth}"),
    "fim": ("defense=fim",),
}
COMMON = ("scale=laptop", "epsilon=0.5", "evaluation.num_attacked=256", "plots=false")
COLUMNS = {
    "NLL": ("nll", "mean", 0.0),
    "coverage": ("coverage", "mean_absolute_error", 0.0),
    "KL": ("kl_forward", "median", 0.5),
    "NLL~": ("nll", "mean", 0.5),
    "coverage~": ("coverage", "mean_absolute_error", 0.5),
}


def main() -> None:
    """Print one line for each task and defense."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("outputs"))
    options = parser.parse_args()
    metrics = "metric=[nll,coverage,divergence]"
    for task in TASKS:
        fifth = 0
        for name, words in DEFENSES.items():
            words = tuple(word.format(fifth=fifth) for word in words)
            given = (f"task={task}", metrics, *COMMON, *words, f"output_dir={options.output}")
            experiment = Experiment(composed(given))
            table = train.run(experiment).table
            facts = [a.manifest["facts"] for a in experiment.trained().artefacts]
            epochs = sum(len(fact["train_loss"]) for fact in facts)
            fifth = fifth or max(1, epochs // 5)
            shown = []
            for title, (metric, statistic, epsilon) in COLUMNS.items():
                rows = table[(table.metric == metric) & (table.statistic == statistic)]
                shown.append(f"{title} {rows[rows.epsilon == epsilon].value.iloc[0]:.3f}")
            print(f"{task} {name}: {', '.join(shown)}, {epochs} epochs", flush=True)


if __name__ == "__main__":
    main()
