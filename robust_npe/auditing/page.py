"""`audit.html`: one page without network or other files, for colleagues."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

import robust_npe
from robust_npe.auditing.findings import number
from robust_npe.auditing.movement import CLEAN
from robust_npe.auditing.typicality import ALL, CHECKS
from robust_npe.metrics.soundness import FLAGS
from robust_npe.plotting.audit_stages import stage_name

if TYPE_CHECKING:
    from robust_npe.auditing.report import Report

__all__ = ["page"]

MOST_BYTES = 2_500_000  # of pictures; what is too much stays in the folder
LISTED = 10  # rows of tables that have one for each observation
QUALITY = (
    ("no_density", "mean", "simulations without a density (NaN)", "0 to 1; left out below"),
    ("nll", "mean", "NLL: mean of -log q(theta|x)", "nats; lower is better"),
    ("information_gain", "mean", "gain over the prior", "nats; 0: no better than the prior"),
    ("gain_over_other_x", "median", "what the right x is worth", "nats; 0: q ignores x"),
    ("coverage", "mean_absolute_error", "error of coverage", "0 is perfect, 0.5 the worst"),
    ("coverage", "signed_area", "side of coverage", "below 0: too narrow; above: too wide"),
    ("leakage", "mean", "mass outside of the prior", "0 to 1"),
)
KINDS = {
    "x": "Observation x and perturbed x~",
    "posterior": "Posteriors at x and at x~",
    "predictive": "Simulations from the posterior",
}


@dataclass(frozen=True)
class Picture:
    """A picture in the page: its bytes as a URI, and what it shows in words."""

    uri: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Stage:
    """The pictures of one observation at one radius."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Shown:
    """One pictured observation: its number, stages, and its posterior in numbers, with heads."""

    number: int
    stages: Sequence[Stage]
    heads: Sequence[str]
    posterior: Sequence[Sequence[str]]


def page(report: Report, pictures: Mapping[str, bytes]) -> str:
    """Return the page as text.

    Args:
        report: What was found.
        pictures: Its figures as png, by the names of `robust_npe.plotting.audit.figures`.
    """
    from jinja2 import Environment, PackageLoader  # slow to import, rarely needed

    loader = PackageLoader("robust_npe.auditing")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    observations, left_out = _observations(report, pictures)
    tables = report.tables
    return environment.get_template("audit.html").render(
        report=report,
        found=report.findings,
        version=robust_npe.__version__,
        quality=_quality(tables["quality"]),
        typicality=_typicality(tables["typicality"]),
        checks=CHECKS,
        threat=_threat(tables["threat"]),
        by_radius=report.findings.table.to_dict("split"),
        soundness=_soundness(tables["soundness"]),
        sensitivity=_sensitivity(tables["sensitivity"]),
        smallest=_smallest(tables["minimal_radius"]),
        worst=_worst(report),
        pictures={k: _picture(v, ALTS[k]) for k, v in pictures.items() if k in ALTS},
        observations=observations,
        left_out=left_out,
    )


ALTS = {
    "coverage": "Curve of empirical against nominal coverage on held-out simulations; the diagonal "
    "is perfect, below it the posterior is too narrow.",
    "typicality": "One row of dots for each check: p-values of the observations on a logarithmic "
    "axis, with a line at 0.01.",
    "movement": "KL divergence against the radius: a thin line for each observation, and the "
    "medians under the attack and under random noise, with a dotted line at 1 nat.",
    "sensitivity": "Bars: components of the most sensitive direction of the first observation by "
    "feature; the table beside it has the numbers.",
}


def _picture(content: bytes, alt: str, caption: str = "") -> Picture:
    return Picture(f"data:image/png;base64,{base64.b64encode(content).decode()}", alt, caption)


def _observations(report: Report, pictures: Mapping[str, bytes]) -> tuple[list[Shown], int]:
    """Return the stages of each pictured observation, and how many did not fit into the page."""
    room, shown, left_out = MOST_BYTES, [], 0
    x, moved = report.tables["x"], report.tables["attacks"]
    for i in x.observation.unique() if len(x) else ():
        stages, size = [], 0
        for k, epsilon in enumerate(sorted(x[x.observation == i].epsilon.unique())):
            title, words = _words(moved, report.attack, i, epsilon)
            given = [(kind, pictures.get(stage_name(kind, i, k))) for kind in KINDS]
            found = [(kind, content) for kind, content in given if content is not None]
            size += sum(len(content) for _, content in found)
            inside = _inside(report.tables["predictive"], i, epsilon)
            captions = KINDS | {"predictive": f"{KINDS['predictive']}: {inside}"}
            drawn = [_picture(c, f"{captions[kind]}: {words}", captions[kind]) for kind, c in found]
            stages.append(Stage(title, drawn))
        if size > room:
            left_out += 1
            continue
        room -= size
        shown.append(Shown(int(i), stages, *_posterior(report, i)))
    return shown, left_out


def _inside(predictive: pd.DataFrame, observation: int, epsilon: float) -> str:
    """Say for how many features x is where simulations are."""
    rows = predictive[(predictive.observation == observation) & (predictive.epsilon == epsilon)]
    return (
        f"x is within their central 90 % in {int(rows.inside_clean.sum())} of {len(rows)} features"
    )


def _posterior(report: Report, observation: int) -> tuple[list[str], list[list[str]]]:
    """Return heads and rows of a table: each parameter at x and at the x~ of each radius."""
    table = report.tables["posterior"]
    rows = table[(table.observation == observation) & table.attack.isin([CLEAN, report.attack])]
    epsilons = sorted(rows.epsilon.unique())
    cells: dict[str, list[str]] = {}
    for epsilon in epsilons:
        for r in rows[rows.epsilon == epsilon].to_dict("records"):
            mean, sd, low, high = (number(r[name]) for name in ("mean", "sd", "q05", "q95"))
            cells.setdefault(r["parameter"], []).append(f"{mean} ± {sd} ({low} to {high})")
    heads = ["parameter", *("at x" if not e else f"at x~, epsilon {e:g}" for e in epsilons)]
    return heads, [[name, *texts] for name, texts in cells.items()]


def _words(moved: pd.DataFrame, attack: str, observation: int, epsilon: float) -> tuple[str, str]:
    """Return the title of a stage, and what happens there in words."""
    if not epsilon:
        return "epsilon 0: x itself", f"observation {observation}, not perturbed"
    rows = moved[(moved.attack == attack) & (moved.epsilon == epsilon)]
    row = rows[rows.observation == observation].iloc[0]
    effect = (
        f"KL {number(row.kl_forward)} nats, mean shifts by {number(row.mean_shift)} posterior "
        f"standard deviations, {row.parameter} most"
    )
    return (
        f"epsilon {epsilon:g}: {effect}",
        f"observation {observation}, epsilon {epsilon:g}, {effect}",
    )


def _quality(table: pd.DataFrame) -> list[tuple[str, str, str]]:
    rows = []
    for metric, statistic, title, meaning in QUALITY:
        part = table[table.metric == metric]
        values = {s: v for s, v in zip(part.statistic, part.value, strict=True)}
        if statistic in values:
            low, high = (values.get(f"{statistic}_{end}", math.nan) for end in ("low", "high"))
            interval = "" if math.isnan(low) else f" ({number(low)} to {number(high)})"
            rows.append((title, number(float(values[statistic])) + interval, meaning))
    return rows


def _typicality(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return one row for each check: the smallest p-value, how many are below 0.01, and that of all
    observations together."""
    rows = []
    single = table[table.observation != ALL]
    for (space, check), part in single.groupby(["space", "check"], sort=False):
        together = table[
            (table.observation == ALL) & (table.space == space) & (table.check == check)
        ].p_value
        rows.append(
            {
                "check": f"{check} ({space})" if space != "all" else check,
                "smallest": number(float(part.p_value.min())),
                "below": f"{int((part.p_value < 0.01).sum())} of {len(part)}",
                "together": number(float(together.iloc[0])) if len(together) else "",
                "num": int(part.num_held_out.iloc[0]),
            }
        )
    return rows


def _threat(table: pd.DataFrame) -> dict[str, Any]:
    """Return the largest moves of features by radius; of many features, some."""
    wide = table.pivot(index="feature", columns="epsilon", values="largest_move")
    wide = wide.loc[list(dict.fromkeys(table.feature))]
    rows = [
        (name, [number(v) for v in row]) for name, row in zip(wide.index, wide.values, strict=True)
    ]
    return {
        "radii": [f"{epsilon:g}" for epsilon in wide.columns],
        "rows": rows[: 2 * LISTED],
        "left": max(0, len(rows) - 2 * LISTED),
    }


def _soundness(table: pd.DataFrame) -> dict[str, Any]:
    """Return a table with a row for each flag: its value at each radius, limits, and what is wrong;
    `-` where it does not apply."""
    rows, radii = [], sorted(table.epsilon.unique())
    for name, flag in FLAGS.items():
        own = table[table.statistic == name].set_index("epsilon").value.astype(float)
        if len(own):
            worst = flag.worst(own)
            text = flag.meaning(worst) if flag.fires(worst) else "within limits"
            cells = [number(float(own[e])) if e in own.index else "-" for e in radii]
            rows.append([name, *cells, f"{flag.low:g} to {flag.high:g}", text])
    heads = ["flag", *(f"epsilon {e:g}" for e in radii), "limits", "meaning"]
    return {"heads": heads, "rows": rows}


def _sensitivity(table: pd.DataFrame) -> dict[str, Any]:
    """Return the largest components of the direction at the first observation."""
    first = table[table.observation == 0]
    if first.empty or first.component.isna().all():
        return {}
    chosen = first.reindex(first.component.abs().sort_values(ascending=False).index[:LISTED])
    share = table.groupby("observation").share.first()
    return {
        "rows": [
            (r["feature"], number(r["component"]), number(r["step"]))
            for r in chosen.to_dict("records")
        ],
        "share": number(100 * float(share.iloc[0])),
        "even": number(100 / len(first)),
        "median": number(100 * float(share.median())),
        "num": len(share),
    }


def _smallest(table: pd.DataFrame) -> list[tuple[int, str, str]]:
    wide = table.pivot(index="observation", columns="criterion", values="radius").reset_index()
    return [
        (r["observation"], number(r["kl_forward"]), number(r["mean_shift"]))
        for r in wide[:LISTED].to_dict("records")
    ]


def _worst(report: Report) -> dict[str, Any]:
    """Return a table of the observations that move most at the largest radius: heads and rows."""
    table, typicality = report.tables["attacks"], report.tables["typicality"]
    rows = table[(table.attack == report.attack) & (table.epsilon == table.epsilon.max())]
    rows = rows.sort_values("kl_forward", ascending=False, na_position="first")[:LISTED]
    combined = typicality[typicality.space == "all"].set_index("observation").p_value
    columns = {
        "observation": [str(i) for i in rows.observation],
        "KL (nats)": [number(value) for value in rows.kl_forward],
        "shift (sd)": [
            f"{number(r.mean_shift)} ({r.parameter})" for r in rows.itertuples(index=False)
        ],
    }
    if "leakage" in rows:
        columns["outside of the prior (%)"] = [number(100 * value) for value in rows.leakage]
    if len(combined):
        columns["p-value"] = [number(float(combined[i])) for i in rows.observation]
    return {"heads": list(columns), "rows": list(zip(*columns.values(), strict=True))}
