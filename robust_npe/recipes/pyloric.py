"""The table behind the figure of the pyloric network."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from robust_npe.commands.experiment import Experiment
from robust_npe.recipes.examples import examples
from robust_npe.store import StoreError
from robust_npe.tasks.pyloric import PARAMETER_NAMES, PRIOR_HIGH, PRIOR_LOW, Pyloric

__all__ = ["pyloric_table", "thinned"]

STEP = 5.0  # ms


def pyloric_table(
    experiments: Sequence[Experiment], epsilon: float = 0.5, num_simulations: int = 16
) -> pd.DataFrame:
    """Return the example with the median divergence, in the columns of `examples`.

    Simulations are thinned in time. Rows with `what` low and high hold
    the ends of the prior of each parameter.

    Args:
        experiments: Runs of the pyloric network without a defense and with others.
        epsilon: The radius of the attack.
        num_simulations: Simulations with parameters from each posterior.

    Raises:
        StoreError: The runs lack the radius, or have statistics instead of traces.
    """
    tasks = [e.task for e in experiments]
    if not all(isinstance(task, Pyloric) and task.traces for task in tasks):
        raise StoreError("these runs have statistics instead of traces, which are not drawn")
    counts = {"num_simulations": num_simulations, "num_traces": num_simulations}
    table = examples(experiments, {"pyloric": epsilon}, **counts)
    table = table[table.what != "predictive"]  # quantiles of spike trains out of step say nothing
    simulated = table.what == "simulation"
    parts = [table[~simulated], thinned(table[simulated]), _ends(table)]
    return pd.concat(parts, ignore_index=True)


def thinned(simulated: pd.DataFrame) -> pd.DataFrame:
    """Keep the highest voltage in each step of 5 ms, in whole mV: no spike is lost."""
    steps = simulated.position // STEP * STEP
    pooled = simulated.assign(position=steps, value=simulated.value.round())
    keys = [name for name in pooled if name != "value"]
    return pooled.groupby(keys, dropna=False, sort=False).value.max().reset_index()


def _ends(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the lower and the upper end of the prior."""
    truth = table[table.what == "truth"]
    parts = []
    for what, values in (("low", PRIOR_LOW), ("high", PRIOR_HIGH)):
        of_parameter = dict(zip(PARAMETER_NAMES, values, strict=True))
        parts.append(truth.assign(what=what, value=truth.name.map(of_parameter)))
    return pd.concat(parts)
