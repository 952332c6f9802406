"""From tables to the few numbers that an audit comes down to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy.special import bdtrc

from robust_npe.auditing.typicality import ALL, COMBINED
from robust_npe.metrics.soundness import OF_PGD, flags

__all__ = ["UNUSUAL", "Findings", "median_radius", "number"]

UNUSUAL = 0.01  # p-value below which an observation is called unlike the simulations
SURPRISING = 0.05  # probability below which chance is no explanation


@dataclass(frozen=True)
class Findings:
    """The numbers that words are made of.

    Attributes:
        table: Radius by attack: median and largest KL and shift, and how many moved.
        num_observations: How many were given, and
        num_attacked: how many were attacked.
        largest: The largest radius.
        num_moved: How many moved by more than 1 nat or one standard deviation up to there.
        num_shaken: How many random noise of such a size moved.
        num_unknown: At how many of those that did not move this is not known somewhere: NaN.
        radius: Median of the smallest radii found, inf where it is beyond; nan: not searched.
        unusual: How many observations look unlike the simulations; None: not known.
        by_chance: Whether typical observations would be so unusual, too.
        smallest_p: The smallest combined p-value there may be.
        beyond: How many observations are more unusual than all held-out simulations, by at least
            one check.
        num_held_out: How many of these there are; 0 if they are too few for checks.
        clean: Of held-out simulations: the share without a density, and of the others mean NLL and
            gain, coverage error, leakage. What is not known is left out; may be empty.
        flags: Sentences on the attack, by flag.
        touched: Whether the attack changed any observation.
        draws: Draws from the prior that carry the posterior where fewest do; inf: it is not made of
            such draws.
    """

    table: pd.DataFrame
    num_observations: int
    num_attacked: int
    largest: float
    num_moved: int
    num_shaken: int
    num_unknown: int
    radius: float
    unusual: int | None
    by_chance: bool
    smallest_p: float
    beyond: int
    num_held_out: int
    clean: Mapping[str, float]
    flags: Mapping[str, str]
    touched: bool = True
    draws: float = math.inf

    @classmethod
    def of(cls, tables: Mapping[str, pd.DataFrame], attack: str) -> Findings:
        """Return the findings of an audit's tables."""
        moved, typical = tables["attacks"], tables["typicality"]
        own = moved[moved.attack == attack]
        over = moved[(moved.kl_forward > 1) | (moved.mean_shift > 1)]
        found = set(over[over.attack == attack].observation)
        unknown = own[own.kl_forward.isna() | own.mean_shift.isna()].observation
        combined = typical[typical.check == COMBINED]
        known = len(combined) > 0
        return cls(
            _by_radius(moved),
            tables["posterior"].observation.nunique(),
            own.observation.nunique(),
            float(own.epsilon.max()),
            len(found),
            over[over.attack == "noise"].observation.nunique(),
            len(set(unknown) - found),
            median_radius(tables["minimal_radius"]),
            int((combined.p_value < UNUSUAL).sum()) if known else None,
            _by_chance(combined.p_value),
            _smallest_p(typical),
            _beyond(typical),
            _num_held_out(typical),
            _clean(tables["quality"]),
            _flags(tables["soundness"]),
            bool((own.distance != 0).any()),
            float(moved.effective_draws.min()) if "effective_draws" in moved else math.inf,
        )


def _flags(table: pd.DataFrame) -> dict[str, str]:
    return {k: v.removeprefix("soundness ") for k, v in flags(table).items() if k != OF_PGD}


def _by_radius(moved: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for (epsilon, attack), part in moved[moved.epsilon > 0].groupby(
        ["epsilon", "attack"], sort=False
    ):
        over = (part.kl_forward > 1) | (part.mean_shift > 1)
        unknown = int((~over & (part.kl_forward.isna() | part.mean_shift.isna())).sum())
        row = {
            "epsilon": epsilon,
            "attack": attack,
            "median KL": part.kl_forward.median(),
            "largest KL": part.kl_forward.max(),
            "median shift": part.mean_shift.median(),
            "largest shift": part.mean_shift.max(),
            "moved": f"{int(over.sum())} of {len(part)}"
            + (f", {unknown} not known" if unknown else ""),
        }
        rows.append({k: number(v) if isinstance(v, float) else v for k, v in row.items()})
    return pd.DataFrame(rows).sort_values(["epsilon", "attack"], key=_order, kind="stable")


def _order(column: pd.Series) -> pd.Series:
    return column.astype(float) if column.name == "epsilon" else column != "noise"


def median_radius(table: pd.DataFrame) -> float:
    """Return the median over observations of the smallest radius of either criterion."""
    if table.empty:
        return math.nan
    nearest = table.groupby("observation").radius.min().sort_values()
    return float(nearest.iloc[(len(nearest) - 1) // 2])


def _smallest_p(typical: pd.DataFrame) -> float:
    """Return a p-value that all observations may be above: each check has a most unusual one among
    held-out simulations, and these tie with whatever is beyond them."""
    if typical.empty:
        return math.nan
    single = typical[(typical.observation != ALL) & (typical.check != COMBINED)]
    checks = len(single.groupby(["space", "check"]))
    return (1 + checks) / (1 + float(typical.num_held_out.iloc[0]))


def _beyond(typical: pd.DataFrame) -> int:
    single = typical[(typical.observation != ALL) & (typical.check != COMBINED)]
    lowest = single.p_value <= 1 / (1 + single.num_held_out)
    return int(single[lowest].observation.nunique())


def _num_held_out(typical: pd.DataFrame) -> int:
    return 0 if typical.empty else int(typical.num_held_out.iloc[0])


def _by_chance(p: pd.Series) -> bool:
    """Tell whether p-values of typical observations have a smallest one as small, and as many small
    ones, in more than 5 % of cases."""
    if p.empty or float(p.min()) * len(p) < SURPRISING:
        return p.empty
    return bool(bdtrc(int((p < UNUSUAL).sum()) - 1, len(p), UNUSUAL) > SURPRISING)


def _clean(quality: pd.DataFrame) -> dict[str, float]:
    wanted = {
        "no_density": ("no_density", "mean"),
        "nll": ("nll", "mean"),
        "gain": ("gain_over_other_x", "median"),
        "information": ("information_gain", "mean"),
        "coverage_error": ("coverage", "mean_absolute_error"),
        "coverage_area": ("coverage", "signed_area"),
        "leakage": ("leakage", "mean"),
    }
    found = {}
    for name, (metric, statistic) in wanted.items():
        values = quality[(quality.metric == metric) & (quality.statistic == statistic)].value
        if values.notna().any():
            found[name] = float(values.iloc[0])
    return found


def number(value: Any) -> str:
    """Return a number as people read it."""
    if isinstance(value, float) and math.isnan(value):
        return "not known"
    return "infinite" if value == math.inf else f"{value:.3g}"
