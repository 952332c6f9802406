"""Tables of Bayesian classifiers: attacks beside one another, expected gradients, tradeoffs."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from robust_npe.recipes.recipe import Recipe
from robust_npe.recipes.tables import results
from robust_npe.store import StoreError

__all__ = ["gradients_table", "suite_table", "tradeoff_table", "verdict"]

KEYS = ["run_id", "task", "estimator", "num_simulations", "seed"]
ATTACKS = ("random_signs", "published_fgsm", "published_pgd", "fgsm", "pgd", "fresh_pgd", "worst")
SUITE = ["clean", *ATTACKS, "zero_published_pgd", "zero_pgd", "masked", "disorder"]
SAMPLER = ["acceptance", "rhat", "effective", "divergent", "moved", "converged"]
NAME = re.compile(r"(?P<inference>\w+)\((?P<hidden>linear|[\dx]+)(?P<settings>[^)]*)\)")
BROKEN, MASKED = 0.05, 0.05  # accuracy that counts as none; shares of observations, of steps


def suite_table(recipes: Sequence[Recipe]) -> pd.DataFrame:
    """Return one row for each run: what is left of the accuracy after each attack.

    Columns: the settings of the run, `inference`, `hidden` (widths), `settings` (other ones),
    `epsilon`, what `Masking` and `WeightPosterior` measure, empty where there was no sampler, and
    `verdict`.

    Raises:
        StoreError: Runs are missing, or did not measure that.
    """
    rows = results(recipes)["results"]
    table = _wide(rows, "masking", SUITE).join(_wide(rows, "weight_posterior", SAMPLER, False))
    radii = rows[rows.epsilon > 0].groupby("run_id").epsilon.first()
    table = _described(rows, table.join(radii))
    return table.assign(verdict=[verdict(row) for _, row in table.iterrows()])


def verdict(row: pd.Series) -> str:
    """Return in words what holds of a row of `suite_table`.

    Masking needs both: other attacks break what PGD leaves, and PGD often saw no gradient.
    """
    left = "nothing" if row.worst <= BROKEN else f"{100 * row.worst / row.clean:.0f} % of it"
    gap = row.pgd - row.worst
    if row.masked > MASKED and row.zero_pgd > MASKED:
        blind = f"no gradient in {100 * row.zero_pgd:.0f} % of steps"
        return f"masking: PGD leaves {row.pgd:.2f} ({blind}), others {row.worst:.2f}"
    if row.masked > MASKED:
        return f"PGD on the likelihood misses {gap:.2f}: the worst case leaves {left}"
    if row.worst <= BROKEN:
        return "not robust: gradients lead to what breaks it"
    return f"gradients tell the truth: the worst case leaves {left}"


def gradients_table(recipes: Sequence[Recipe]) -> pd.DataFrame:
    """Return one row for each run and number of draws: the expected gradient of the loss.

    Columns: settings as in `suite_table`, `draws`, `median`, `mean` and `zero` of the expected
    gradient, `single`, `zero_single`, `zero_single_float64` (see `ExpectedGradient`), `accuracy`,
    `rhat`, `converged`, and `worst` and `published_pgd`, accuracies under attack.

    Raises:
        StoreError: Runs are missing, or did not measure that.
    """
    rows = results(recipes)["results"]
    found = rows[rows.metric == "expected_gradient"]
    levels = found[found.level.notna()]
    index = ["run_id", "level"]
    by_draws = levels.pivot_table(index=index, columns="statistic", values="value").reset_index(1)
    of_run = _wide(rows, "expected_gradient", ["single", "zero_single", "zero_single_float64"])
    of_run = of_run.join(_wide(rows, "weight_posterior", ["rhat", "converged"], False))
    of_run = of_run.join(_wide(rows, "masking", ["worst", "published_pgd"])).join(_accuracy(rows))
    table = by_draws.rename(columns={"level": "draws"}).join(of_run)
    return _described(rows, table)


def tradeoff_table(recipes: Sequence[Recipe]) -> pd.DataFrame:
    """Return one row for each run: `accuracy`, `attacked` (the same under attack) and
    `softmax_robustness`, its mean, with settings as in `suite_table`, `epsilon` (the radius), and
    `converged`, empty where there was no sampler.

    Raises:
        StoreError: Runs are missing, or did not measure that.
    """
    rows = results(recipes)["results"]
    attacked = rows[(rows.attack != "none") & (rows.statistic == "mean")]
    values = attacked.pivot_table(index="run_id", columns="metric", values="value")
    if lacking := {"accuracy", "softmax_robustness"} - {*values.columns}:
        raise StoreError(f"the runs lack {', '.join(sorted(lacking))}")
    table = values[["accuracy", "softmax_robustness"]].rename(columns={"accuracy": "attacked"})
    table = table.join(attacked.groupby("run_id").epsilon.first())
    table = table.join(_accuracy(rows)).join(_wide(rows, "weight_posterior", ["converged"], False))
    return _described(rows, table)


def _accuracy(rows: pd.DataFrame) -> pd.Series:
    """Accuracy on clean observations by run."""
    clean = rows[(rows.attack == "none") & (rows.metric == "accuracy") & (rows.statistic == "mean")]
    return clean.set_index("run_id").value.rename("accuracy")


def _wide(
    rows: pd.DataFrame, metric: str, statistics: list[str], needed: bool = True
) -> pd.DataFrame:
    """Return statistics of a metric by run, one column each."""
    found = rows[(rows.metric == metric) & rows.level.isna() & rows.statistic.isin(statistics)]
    wide = found.pivot_table(index="run_id", columns="statistic", values="value")
    lacking = [name for name in statistics if name not in wide.columns]
    if needed and lacking:
        raise StoreError(f"the runs lack {', '.join(lacking)} of the metric {metric}")
    return wide.reindex(columns=statistics)


def _described(rows: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Add the settings of runs, and what their names say."""
    keys = rows.drop_duplicates("run_id")[KEYS].set_index("run_id")
    names = keys.estimator.str.extract(NAME).fillna("")
    names["settings"] = names.settings.str.lstrip(",")
    return keys.join(names).join(table, how="inner").reset_index()
