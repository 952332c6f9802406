"""What the rows behind a drawn example are, in words."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from robust_npe.plotting.names import UNITS, defense_name, line_name

__all__ = ["SETTINGS", "defense_title", "divergence_text", "radius_text"]
__all__ += ["rank_note", "require_one", "training_note"]

SETTINGS = (
    *("estimator", "beta", "defense_epsilon", "num_simulations", "seed"),
    *("attack", "norm", "epsilon", "epsilon_unit", "observation"),
)
"""Columns in which the rows of one example agree."""

DIVERGED = ("†", "a training diverged (earlier weights were restored)")


def require_one(rows: pd.DataFrame, where: str, columns: Sequence[str] = SETTINGS) -> None:
    """Refuse rows that mix settings.

    Raises:
        ValueError: They differ in a column, which is named.
    """
    for name in columns:
        values = rows[name].unique()
        if len(values) > 1:
            raise ValueError(
                f"The rows for {where} mix {name} {', '.join(map(str, values))}: "
                "select one of them before plotting."
            )


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


def training_note(rows: pd.DataFrame) -> str:
    """Return what the estimators were trained with."""
    counts, seeds = (sorted(rows[name].dropna().unique()) for name in ("num_simulations", "seed"))
    scale = f", {rows.scale.iloc[0]} scale" if "scale" in rows else ""
    seed = f"seed {', '.join(f'{s:g}' for s in seeds)}"
    text = f"{', '.join(f'{count:g}' for count in counts)} simulations, {seed}{scale}."
    mark, meaning = DIVERGED
    return f"{text} {mark}: {meaning}." if (rows.diverged > 0).any() else text


def rank_note(rows: pd.DataFrame) -> str:
    """Return how the example was chosen."""
    share = rows["quantile"].iloc[0]
    if share == 0.5:
        return "Example: the observation whose divergence without a defense is the median."
    return f"Example: the observation at the {100 * share:g} % quantile of undefended divergences."
