"""The table behind the figure of the pyloric network."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from robust_npe.commands.experiment import Experiment
from robust_npe.recipes.examples import examples
from robust_npe.store import StoreError

__all__ = ["pyloric_table"]

POOLED = 5.0  # ms: simulations keep the highest voltage in each of these steps


def pyloric_table(
    experiments: Sequence[Experiment], epsilon: float = 0.5, num_simulations: int = 16
) -> pd.DataFrame:
    """Return the example with the median divergence, in the columns of `examples`.

    Simulations are thinned in time such that no spike is lost. Rows with `what` low and high hold
    the ends of the prior of each parameter.

    Args:
        experiments: Runs of the pyloric network without a defense and with others.
        epsilon: The radius of the attack.
        num_simulations: Simulations with parameters from each posterior.

    Raises:
        StoreError: The runs lack the radius, or have statistics instead of traces.
    """
    if not all(e.task.traces for e in experiments):
        raise StoreError("these runs have statistics instead of traces, which are not drawn")
    counts = {"num_simulations": num_simulations, "num_traces": num_simulations}
    table = examples(experiments, {"pyloric": epsilon}, **counts)
    table = table[table.what != "predictive"]  # quantiles of spike trains out of step say nothing
    simulated = table.what == "simulation"
    steps = table.position // POOLED * POOLED
    pooled = table[simulated].assign(position=steps, value=table.value.round())
    keys = [name for name in pooled if name != "value"]
    pooled = pooled.groupby(keys, dropna=False, sort=False, as_index=False).value.max()
    return pd.concat([table[~simulated], pooled, _ends(table, experiments[0])], ignore_index=True)


def _ends(table: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Rows of the lower and the upper end of the prior."""
    box, truth = experiment.task.prior.support.base_constraint, table[table.what == "truth"]
    ends = {"low": box.lower_bound, "high": box.upper_bound}
    parts = []
    for what, values in ends.items():
        of_parameter = dict(zip(experiment.task.theta_names, values.tolist(), strict=True))
        parts.append(truth.assign(what=what, value=truth.name.map(of_parameter)))
    return pd.concat(parts)
