"""Tables of single observations: what an attack does to one posterior and to its predictions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from robust_npe.commands.evaluation import perturbed
from robust_npe.commands.experiment import Experiment
from robust_npe.posterior import Posterior
from robust_npe.random import draws_from, stream
from robust_npe.recipes.stored import divergences
from robust_npe.store import StoreError
from robust_npe.tasks import Task

__all__ = ["examples", "rounded"]

QUANTILES = (0.01, 0.05, 0.175, 0.5, 0.825, 0.95, 0.99)
STATES = ("clean", "attacked")
FEATURE = re.compile(r"(?P<name>.+?)[ (](?P<position>[\d.]+)(?:,(?P<row>\d+))?(?: ms|\))?")


def examples(
    experiments: Sequence[Experiment],
    radii: Mapping[str, float],
    quantile: float = 0.5,
    num_samples: int = 500,
    num_traces: int = 0,
) -> pd.DataFrame:
    """Return one observation of each task, clean and as it was attacked, with its posteriors.

    The observation is the one whose KL without a defense has the given rank among those attacked;
    with a defense it is the same one, attacked anew. Columns are those of observations.csv, with

    - `kl_forward`: divergence of the two posteriors, nats; `quantile`: its rank without a defense,
    - `state`: clean or attacked, and `what` one row is:
      `observation`: a feature of x, its `name`, `position` (time or column) and `row` of an image,
      `predictive`: the same of simulations from the posterior, with `statistic` q01 ... q99, mean,
      `simulation`: the same of one simulation, whose number is `statistic`,
      `posterior`: a parameter's `name`, number of the sample (`position`), and its value,
      `truth`: the parameter that generated the clean observation,
    - `value`, of four significant digits.

    Args:
        experiments: Finished runs: for each task one without a defense, and others.
        radii: The radius of the attack by task, one of those the runs attacked with.
        quantile: Rank of the example's divergence without a defense, from 0 to 1.
        num_samples: Samples of each posterior, and simulations behind the predictive quantiles.
        num_traces: How many of these simulations are kept.

    Raises:
        StoreError: A task has no run without a defense, or a run lacks the radius.
    """
    tables = []
    undefended = {e.task.name: e for e in experiments if e.defense.name == "none"}
    for experiment in experiments:
        name = experiment.task.name
        if name not in undefended:
            raise StoreError(f"there is no run of {name} without a defense to choose an example by")
        ranked = divergences(undefended[name], radii[name]).sort_values("value")
        number = int(ranked.observation.iloc[round(quantile * (len(ranked) - 1))])
        rows = divergences(experiment, radii[name])
        keys = rows[rows.observation == number].drop(columns="metric")
        keys = keys.rename(columns={"value": "kl_forward"}).assign(quantile=quantile)
        content = _example(experiment, number, radii[name], num_samples, num_traces)
        tables.append(keys.merge(content, how="cross"))
    return pd.concat(tables, ignore_index=True)


def _example(
    experiment: Experiment, number: int, epsilon: float, num_samples: int, num_traces: int
) -> pd.DataFrame:
    """What is drawn of one observation."""
    task, trained, count = experiment.task, experiment.trained(), experiment.evaluation.num_attacked
    theta, x = (t[:count] for t in experiment.test_set)
    x_adv = perturbed(experiment, trained, theta, x, epsilon).x_adv  # stored by the run
    truth = _parameters(task, theta[number : number + 1]).assign(what="truth", state="clean")
    parts = [truth.assign(position=np.nan)]
    for state, batch in zip(STATES, (x, x_adv), strict=True):
        one = batch[number : number + 1]
        seed = experiment.seeds.evaluation
        samples, simulated = _drawn(task, trained.posterior, one, seed, num_samples)
        observed = features(task, one.cpu(), [""]).assign(what="observation")
        posterior = _parameters(task, samples).assign(what="posterior")
        names = [f"q{round(1000 * q):03d}".removesuffix("0") for q in QUANTILES]
        statistics = simulated.double().nanquantile(torch.tensor(QUANTILES).double(), dim=0)
        statistics = torch.cat((statistics, simulated.double().nanmean(0, keepdim=True)))
        predictive = features(task, statistics, [*names, "mean"]).assign(what="predictive")
        traces = features(task, simulated[:num_traces], range(num_traces))
        new = [observed, posterior, predictive, traces.assign(what="simulation")]
        parts += [part.assign(state=state) for part in new]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(value=rounded(table.value))


def _drawn(
    task: Task, posterior: Posterior, x: Tensor, seed: int, count: int
) -> tuple[Tensor, Tensor]:
    """Samples of q(theta|x) `(S, D)` and simulations with them `(S, Dx)`; equal random numbers for
    the clean and the attacked observation, so that what differs is due to x."""
    with torch.no_grad(), draws_from(stream(seed, "example", "samples")):
        samples = posterior(x).sample(torch.Size([count]))[:, 0].cpu()
    return samples, task.simulate(samples, stream(seed, "example", "simulate"))


def _parameters(task: Task, theta: Tensor) -> pd.DataFrame:
    """Rows of parameters `(S, D)`."""
    table = pd.DataFrame(theta.cpu().numpy(), columns=task.theta_names)
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
    return pd.concat(parts, ignore_index=True) if parts else places.iloc[:0]


def rounded(values: pd.Series) -> pd.Series:
    """Return numbers of four significant digits: more are not seen, and tables stay small."""
    return values.map(lambda value: float(f"{value:.4g}"))
