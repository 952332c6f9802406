"""What the rows behind a figure are, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from robust_npe.plotting.names import UNITS, count_text, defense_name, line_name, unit_name

__all__ = ["SETTINGS", "attack_note", "defense_title", "divergence_text", "radius_text"]
__all__ += ["rank_note", "setup_note", "training_note"]

SETTINGS = (
    *("estimator", "beta", "defense_epsilon", "num_simulations", "seed"),
    *("attack", "norm", "epsilon", "epsilon_unit", "observation"),
)
"""Columns in which the rows of one example agree."""

DIVERGED = ("†", "a training diverged (earlier weights were restored)")


def defense_title(rows: pd.DataFrame) -> str:
    """Return the name of the defense of these rows, with its settings and a mark if its training
    diverged."""
    first = rows.iloc[0]
    name = defense_name(first.defense, first.beta, first.defense_epsilon)
    return line_name("defense", name) + (DIVERGED[0] if (rows.diverged > 0).any() else "")


def divergence_text(nats: float) -> str:
    """Return an estimated divergence of the clean and the attacked posterior."""
    if nats <= 0:
        return "divergence below resolution"
    return rf"$D_{{KL}}(q(\theta|x)\,\|\,q(\theta|\tilde x))$ = {float(f'{nats:.2g}'):g} nats"


def radius_text(example: pd.Series) -> str:
    """Return the radius of the attack on an example (one row), with its unit."""
    if example.epsilon_unit == "std":
        return f"radius {example.epsilon:g}"
    return f"radius {example.epsilon:g} {UNITS.get(example.epsilon_unit, example.epsilon_unit)}"


def attack_note(example: pd.Series) -> str:
    """Return the attack on an example (one row), with its radius, unit and norm."""
    unit = unit_name(example.to_frame().T)
    return f"{line_name('attack', example.attack)}, radius {example.epsilon:g} {unit}"


def training_note(rows: pd.DataFrame) -> str:
    """Return what the estimators of examples were trained with."""
    estimators = [line_name("estimator", name) for name in rows.estimator.unique()]
    text = ", ".join([*_alone(estimators), *_training(rows)]) + "."
    mark, meaning = DIVERGED
    return f"{text} {mark}: {meaning}." if (rows.diverged > 0).any() else text


def setup_note(table: pd.DataFrame) -> list[str]:
    """Return what all runs of tidy results have in common: attack, number of observations,
    estimator, number of simulations, seeds, scale. What differs is for axes and legends to tell.
    """
    attacked = table.attack != "none"
    attacks = [line_name("attack", name) for name in table[attacked].attack.unique()]
    estimators = [line_name("estimator", name) for name in table.estimator.unique()]
    counted = table.statistic == "num_observations"
    moved = table.metric.isin(["kl_forward", "kl_reverse"])
    each = (
        table[rows].groupby("run_id").value.max()
        for rows in (counted & attacked & moved, counted & ~attacked & (table.metric == "nll"))
    )  # less those that are not finite
    few, every = map(_common, each)
    count = f"{few} of {every}" if few and every else few or every
    observations = [f"{count} observations{' attacked' if few else ''}"] if count else []
    first, second = [*_alone(attacks), *observations], [*_alone(estimators), *_training(table)]
    told = "; ".join(", ".join(words) for words in (first, second) if words)
    return [f"{told}."] if told else []


def _training(rows: pd.DataFrame) -> list[str]:
    """Number of simulations, seeds and scale."""
    count = _common(rows.num_simulations)
    words = [f"{count} simulations"] if count else []
    words += _seeds(rows.seed, "seed")
    if "data_seed" in rows and not rows.data_seed.equals(rows.seed):
        words += _seeds(rows.data_seed, "data seed")
    return words + ([f"{rows.scale.iloc[0]} scale"] if "scale" in rows else [])


def _seeds(seeds: pd.Series, name: str) -> list[str]:
    texts = [f"{seed:g}" for seed in sorted(seeds.dropna().unique())]
    return [f"{name}{'s' * (len(texts) > 1)} {', '.join(texts)}"] if texts else []


def _common(counts: pd.Series) -> str:
    """Return the number that all of these are, nothing if they differ or there are none."""
    finite = counts[np.isfinite(counts.astype(float))]
    return "".join(map(count_text, _alone([*finite.unique()])))


def _alone(values: Sequence[Any]) -> Sequence[Any]:
    return values if len(values) == 1 else []


def rank_note(rows: pd.DataFrame) -> str:
    """Return how the example was chosen."""
    share = rows["quantile"].iloc[0]
    if share == 0.5:
        return "Example: the observation whose divergence without a defense is the median."
    return f"Example: the observation at the {100 * share:g} % quantile of undefended divergences."
