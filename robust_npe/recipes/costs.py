"""What trainings cost, from the manifests of the stored estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from robust_npe.commands.runs import stored_estimators
from robust_npe.recipes.recipe import Recipe
from robust_npe.recipes.tables import results
from robust_npe.store import Store

__all__ = ["results_with_costs"]


def results_with_costs(recipes: Sequence[Recipe]) -> dict[str, pd.DataFrame]:
    """Return the results of all runs, with rows of the metric `training` for what it cost.

    They are `seconds` (elapsed, of all networks of an ensemble together; simulations that were
    made for it included), `epochs` (of all) and `seconds_per_epoch`.
    """
    table = results(recipes)["results"]
    costs = {}
    for recipe in recipes:
        store = Store(recipe.output / "store")
        for run in recipe.require_runs().values():
            if run.key not in costs:
                manifests = [a.manifest for a in stored_estimators(store, run.path)]
                costs[run.key] = _costs(manifests)
    known = table[(table.metric == "training") & (table.statistic == "diverged")]
    parts = [
        known.assign(statistic=name, value=known.run_id.map(lambda run, n=name: costs[run][n]))
        for name in ("seconds", "epochs", "seconds_per_epoch")
    ]
    return {"results": pd.concat([table, *parts], ignore_index=True)}


def _costs(manifests: Sequence[dict[str, Any]]) -> dict[str, float]:
    # those of processes that were interrupted, too
    seconds = sum(m["seconds"] + m["facts"].get("seconds_before", 0.0) for m in manifests)
    epochs = sum(len(manifest["facts"]["validation_loss"]) for manifest in manifests)
    per_epoch = seconds / max(epochs, 1)
    return {"seconds": seconds, "epochs": float(epochs), "seconds_per_epoch": per_epoch}
