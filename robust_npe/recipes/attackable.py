"""Which parameters generate observations that can be attacked."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from robust_npe.commands.experiment import Experiment
from robust_npe.recipes.examples import KEYS, rounded
from robust_npe.recipes.stored import divergences

__all__ = ["attackable_table"]


def attackable_table(experiments: Sequence[Experiment], epsilon: float) -> pd.DataFrame:
    """Return the divergence of every attacked observation beside what generated it.

    Columns: the settings of the run, `observation` (its number), `theta_1`, `theta_2` ...,
    `highest` (the largest feature of the clean x), `kl_forward` in nats, and `diverged` (1 where
    the training had to restore earlier weights).

    Args:
        experiments: Finished runs.
        epsilon: The radius of the attack.

    Raises:
        StoreError: A run lacks the radius.
    """
    tables = []
    for experiment in experiments:
        rows = divergences(experiment, epsilon)
        theta, x = (t[rows.observation.tolist()].cpu() for t in experiment.test_set)
        columns = {f"theta_{i + 1}": t.numpy() for i, t in enumerate(theta.T)}
        columns |= {"highest": x.amax(-1).numpy(), "kl_forward": rows.value.to_numpy()}
        added = {name: rounded(pd.Series(v)).to_numpy() for name, v in columns.items()}
        diverged = int(experiment.trained().diverged)
        tables.append(rows[KEYS].assign(**added, diverged=diverged))
    return pd.concat(tables, ignore_index=True)
