"""Tables of single observations: what an attack does to one posterior and to its predictions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robust_npe.commands.experiment import Experiment
from robust_npe.posterior import Posterior
from robust_npe.random import draws_from, stream
from robust_npe.recipes.stored import attacked, divergences
from robust_npe.store import StoreError
from robust_npe.tasks import Task

__all__ = ["KEYS", "examples", "features", "rounded"]

QUANTILES = (0.01, 0.05, 0.175, 0.5, 0.825, 0.95, 0.99)
STATES = ("clean", "attacked")
KEYS = ["task", "estimator", "defense", "beta", "defense_epsilon", "num_simulations", "seed"]
KEYS += ["attack", "norm", "epsilon", "epsilon_unit", "observation"]
FEATURE = re.compile(r"(?P<name>.+?)[ (](?:(?P<row>\d+),)?(?P<position>[\d.]+)(?: ms|\))?")


def examples(
    experiments: Sequence[Experiment],
    radii: Mapping[str, float],
    quantile: float = 0.5,
    num_samples: int = 500,
    num_simulations: int = 500,
    num_traces: int = 0,
) -> pd.DataFrame:
    """Return one observation of each task, clean and as it was attacked, with its posteriors.

    The observation is the one whose KL without a defense has the given rank among those attacked;
    with a defense it is the same one, attacked anew. Columns, beside those that observations.csv
    has too:

    - `kl_forward`: divergence of the two posteriors, nats; `quantile`: its rank without a defense;
      `diverged`: 1 where the training had to restore earlier weights,
    - `state`: clean or attacked, and `what` one row is:
      `observation`: a feature of x, its `name`, `position` (time or column) and `row` of an image,
      `predictive`: the same of simulations from the posterior, with `statistic` q01 ... q99 (not
      of images),
      `simulation`: the same of one simulation, whose number is `statistic`,
      `posterior`: a parameter's `name`, number of the sample (`position`), and its value,
      `truth`: the parameter that generated the clean observation,
    - `value`, of four significant digits or more.

    Args:
        experiments: Finished runs: for each task one without a defense, and others.
        radii: The radius of the attack by task, one of those the runs attacked with.
        quantile: Rank of the example's divergence without a defense, from 0 to 1.
        num_samples: Samples of each posterior.
        num_simulations: How many of them are simulated with, for the predictive quantiles.
        num_traces: How many of the simulations are kept; of images at least one.

    Raises:
        StoreError: A task has no run without a defense, or a run lacks the radius.
    """
    tables = []
    undefended = {e.task.name: e for e in experiments if e.defense.name == "none"}
    counts = num_samples, num_simulations, num_traces
    for experiment in experiments:
        name = experiment.task.name
        if name not in undefended:
            raise StoreError(f"there is no run of {name} without a defense to choose an example by")
        ranked = divergences(undefended[name], radii[name]).sort_values("value")
        number = int(ranked.observation.iloc[round(quantile * (len(ranked) - 1))])
        rows = divergences(experiment, radii[name])
        keys = rows[rows.observation == number][[*KEYS, "value"]]
        keys = keys.rename(columns={"value": "kl_forward"}).assign(quantile=quantile)
        keys["kl_forward"] = rounded(keys.kl_forward)
        tables.append(keys.merge(_example(experiment, number, radii[name], *counts), how="cross"))
    return pd.concat(tables, ignore_index=True)


def _example(
    experiment: Experiment,
    number: int,
    epsilon: float,
    num_samples: int,
    num_simulations: int,
    num_traces: int,
) -> pd.DataFrame:
    """What is drawn of one observation."""
    task, trained, seed = experiment.task, experiment.trained(), experiment.seeds.evaluation
    theta, x, x_adv = attacked(experiment, epsilon)
    truth = _parameters(task, theta[number : number + 1]).assign(what="truth", state="clean")
    parts = [truth.assign(position=np.nan)]
    for state, batch in zip(STATES, (x, x_adv), strict=True):
        one = batch[number : number + 1]
        samples = _samples(trained.posterior, one, seed, num_samples)
        # the same noise for both: what differs is due to the posteriors
        noise = stream(seed, "example", "simulate")
        simulated = task.simulate(samples[:num_simulations], noise)
        new = {
            "observation": features(task, one.cpu(), [""]),
            "posterior": _parameters(task, samples),
            "predictive": _predictive(task, simulated),
        }
        kept = num_traces or int(new["predictive"].empty)
        new["simulation"] = features(task, simulated[:kept], range(kept))
        parts += [rows.assign(what=what, state=state) for what, rows in new.items() if len(rows)]
    return pd.concat(parts, ignore_index=True).assign(diverged=int(trained.diverged))


def _samples(posterior: Posterior, x: Tensor, seed: int, count: int) -> Tensor:
    """Samples of q(theta|x) `(S, D)`, with equal random numbers for each x `(1, Dx)`."""
    with torch.no_grad(), draws_from(stream(seed, "example", "samples")):
        return posterior(x).sample(torch.Size([count]))[:, 0].cpu()


def _predictive(task: Task, simulated: Tensor) -> pd.DataFrame:
    """Quantiles of simulations `(S, Dx)`, those that failed left out; of images nothing."""
    finite = simulated[simulated.isfinite().all(-1)].double()
    values = finite.quantile(torch.tensor(QUANTILES).double(), dim=0)
    names = [f"q{round(1000 * q):03d}".removesuffix("0") for q in QUANTILES]
    table = features(task, values, names)
    return table[table.row.isna()]


def _parameters(task: Task, theta: Tensor) -> pd.DataFrame:
    """Rows of parameters `(S, D)`, rounded to a hundredth of their spread or finer."""
    table = pd.DataFrame(theta.cpu().double().numpy(), columns=task.theta_names)
    if len(table) > 1:
        digits = np.ceil(2 - np.log10(table.std().clip(lower=1e-9))).astype(int)
        table = table.round(digits.to_dict())
    return table.rename_axis("position").melt(var_name="name", ignore_index=False).reset_index()


def features(task: Task, x: Tensor, statistics: Sequence[object]) -> pd.DataFrame:
    """Return rows of observations `x (S, Dx)`, one statistic for each of them."""
    found = [FEATURE.fullmatch(name) for name in task.x_names]
    places = pd.DataFrame([m.groupdict() if m else {"name": "x"} for m in found])
    places = places.reindex(columns=["name", "position", "row"])
    places = places.astype({"position": float, "row": float})
    if places.position.isna().any():  # features without a place stand side by side
        places["position"] = np.arange(len(places), dtype=float)
    values = zip(statistics, x.numpy(), strict=True)
    parts = [places.assign(statistic=str(name), value=value) for name, value in values]
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    return table.assign(value=rounded(table.value))


def rounded(values: pd.Series) -> pd.Series:
    """Return numbers of four significant digits: more are not seen, and tables stay small."""
    return values.map(lambda value: float(f"{value:.4g}"))
