"""The short table for people at the end of a run."""

from __future__ import annotations

import math

import pandas as pd

from robust_npe.metrics.minimal_radius import CRITERIA
from robust_npe.metrics.soundness import flags

__all__ = ["summary"]

COLUMNS = {
    "KL(q||q~)": ("kl_forward", "median"),
    "KL(q~||q)": ("kl_reverse", "median"),
    "certified": ("certified_kl_forward", "median"),
    "TV(q,q~)": ("total_variation", "median"),
    "NLL": ("nll", "median"),
    "KL(p||p~)": ("legitimate_movement", "median"),
    "KL(p~||q~)": ("error", "median"),
    "accuracy": ("accuracy", "mean"),
    "coverage error": ("coverage", "mean_absolute_error"),
    "coverage area": ("coverage", "signed_area"),
    "damage": ("damage", "median"),
    "that of noise": ("damage_noise", "median"),
    "likelihood loss": ("likelihood_degradation", "median"),
    "MMD(q,q~)": ("mmd", "median"),
    "predictive distance": ("predictive", "median"),
    "reference error": ("reference_error", "median"),
    "reference movement": ("reference_movement", "median"),
    "information gain": ("information_gain", "median"),
    "SBC p-value": ("sbc", "ks_p_value"),
    "TARP error": ("tarp", "mean_absolute_error"),
    "leakage": ("leakage", "mean"),
    **{
        f"AUROC of {detector}": (f"detectability_{detector}", "auroc")
        for detector in ("mahalanobis", "neighbours", "classifier")
    },
}
"""Columns of the short table: metric and statistic of each."""

CLEAN = {
    "NLL": ("nll", "mean"),
    "accuracy": ("accuracy", "mean"),
    "coverage error": ("coverage", "mean_absolute_error"),
    "mean C2ST to the reference posteriors": ("c2st", "mean"),
    **{f"median minimal radius ({c})": (f"minimal_radius_{c}", "median") for c in CRITERIA},
    "median margin measured": ("margin_upper", "median"),
    "spectral bound to first order": ("margin_spectral", "median"),
    "share of them broken": ("margin_upper", "broken_spectral"),
}
"""What the line above the table says of clean observations."""

ROUNDING = 1e-12
KNOWN = 0.05  # relative standard deviation of a median that needs no remark


def summary(table: pd.DataFrame) -> str:
    """Return the short table for people: what each radius does to q, the amortized posterior, and
    to p, the true one, and what share of the values was not finite where there are any."""
    clean = table[table.attack == "none"]
    first = table.iloc[0]
    head = f"{first.task}, {first.estimator}, defense {first.defense}"
    if pd.notna(first.beta):
        head += f", beta {first.beta:g}"
    if not set(table.metric) - {"training", "attack"}:
        return f"{head}: nothing was measured, as no chosen metric applies to this task"
    found = {title: _of(clean, *which).value for title, which in CLEAN.items()}
    numbers = [f"{title} {value.iloc[0]:.3f}" for title, value in found.items() if len(value)]
    pairs = _value(clean, "training", "num_pairs")
    if pairs < (asked := first.get("num_simulations", 0)):
        numbers.append(f"trained on {pairs:.0f} of {asked} pairs")
    if _value(clean, "training", "diverged") == 1:
        numbers.append("TRAINING DIVERGED (earlier weights were restored)")
    legend = f"medians over {_counts(table)}, ~ is attacked"
    body = _by_radius(table)
    if "<" in body:
        legend += ", < is below the resolution of two standard errors"
    if "no overlap" in body:
        legend += ", no overlap: the share above 30 nats"
    lines = [f"{head}: {', '.join(numbers)}" if numbers else head]
    lines += [legend, body] if body else []
    lines += _how_well_known(table)
    lines += [f"WARNING: {sentence}" for sentence in flags(table).values()]
    return "\n".join(lines)


def _counts(table: pd.DataFrame) -> str:
    """Say over how many observations rows are taken, where clean and attacked ones differ."""
    counts = table[table.statistic == "num_observations"]
    is_clean = counts.epsilon == 0
    clean, attacked = (counts[rows].value.max() for rows in (is_clean, ~is_clean))
    if not clean > attacked:  # they are equal, or one is not known
        return "observations"
    return f"observations ({clean:.0f} at epsilon 0, the first {attacked:.0f} of them attacked)"


def _how_well_known(table: pd.DataFrame) -> list[str]:
    """Return a line on the median KL where it is known worst, if that is not well enough."""
    known: list[tuple[float, str, float]] = []
    for epsilon, part in table[table.epsilon > 0].groupby("epsilon"):
        names = ("median", "median_se", "median_spread", "num_observations")
        median, error, spread, count = (_value(part, "kl_forward", name) for name in names)
        # below its resolution more samples are needed, not more observations
        if KNOWN < spread < math.inf and not median <= 2 * error:
            known.append((spread, str(epsilon), count))
    if not known:
        return []
    worst, epsilon, count = max(known)
    enough = 2 ** math.ceil(math.log2(count * (worst / KNOWN) ** 2))
    there = _value(table[table.epsilon == 0], "nll", "num_observations")
    advice = f"evaluation.num_attacked={enough} for {100 * KNOWN:g} %"
    if worst > 1:
        advice = "a few of them decide it"
    elif enough > there:
        advice = f"it would take {enough} of them for {100 * KNOWN:g} %"
    return [
        f"the median KL(q||q~) of {count:.0f} observations is known to within "
        f"{100 * worst:.2g} % (sd) at epsilon {epsilon}: {advice}"
    ]


def _by_radius(table: pd.DataFrame) -> str:
    rows = {
        epsilon: {title: _cell(part, *which) for title, which in COLUMNS.items()}
        | {
            "no overlap": _share(part, "no_overlap"),
            "not finite": _share(part, "nonfinite_fraction"),
        }
        for epsilon, part in table.groupby("epsilon")
    }
    measured = pd.DataFrame(rows).T.dropna(axis=1, how="all")
    measured.index.name = "epsilon"
    return "" if measured.empty else measured.fillna("-").to_string()


def _cell(table: pd.DataFrame, metric: str, statistic: str) -> str | None:
    """Return a number as people read it; for a divergence, which is not negative, the resolution of
    two standard errors where it is below them."""
    if _of(table, metric, statistic).empty:
        return None
    value = _value(table, metric, statistic)
    resolution = 2 * _value(table, metric, f"{statistic}_se")
    if abs(value) < ROUNDING:
        value = 0.0
    return f"<{max(resolution, -value):.2g}" if value < resolution else f"{value:.3g}"


def _share(table: pd.DataFrame, statistic: str) -> str | None:
    """Return the largest share of this kind and the metric it belongs to, if there is any."""
    shares = table[(table.statistic == statistic) & (table.value > 0)]
    if shares.empty:
        return None
    worst = shares.sort_values("value", ascending=False).iloc[0]
    return f"{100 * worst['value']:.3g} % of {worst['metric']}"


def _of(table: pd.DataFrame, metric: str, statistic: str) -> pd.DataFrame:
    found = table[(table.metric == metric) & (table.statistic == statistic)]
    overall = found[found.level.isna()]  # of all parameters, where there are rows for each
    return found if overall.empty else overall


def _value(table: pd.DataFrame, metric: str, statistic: str) -> float:
    found = _of(table, metric, statistic).value
    return float(found.iloc[0]) if len(found) else float("nan")
