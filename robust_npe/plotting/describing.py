"""What the rows behind a figure are, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from robust_npe.plotting.cells import MARKS, text_of
from robust_npe.plotting.names import (
    SHORT,
    UNITS,
    count_text,
    defense_name,
    in_paper_order,
    line_name,
    task_name,
    unit_name,
)

__all__ = ["DIVERGED", "SETTINGS", "attack_note", "defense_title", "divergence_text", "radius_text"]
__all__ += ["rank_note", "settings_note", "setup_note", "strengths_note", "training_note"]

SETTINGS = (
    *("estimator", "beta", "defense_epsilon", "num_simulations", "seed"),
    *("attack", "norm", "epsilon", "epsilon_unit", "observation"),
)
"""Columns in which the rows of one example agree."""

LIMITS = {"data": "the range of the data", "task": "what the task can produce", "none": "no limits"}
"""Domains of attacks."""

STRENGTHS = {"beta": "β", "defense_epsilon": "training radius"}
"""What makes a defense stronger."""

DIVERGED = MARKS["diverged"]


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
    return f"{line_name('attack', example.attack)}, radius {example.epsilon:g} in {unit}"


def training_note(rows: pd.DataFrame) -> str:
    """Return what the estimators of examples were trained with."""
    rows = rows if "task" in rows else rows.assign(task="")  # there is one
    text = ", ".join(filter(None, [_names(rows, "estimator"), *_training(rows)])) + "."
    mark, meaning = DIVERGED
    return f"{text} {mark}: {meaning}." if (rows.diverged > 0).any() else text


def setup_note(table: pd.DataFrame, tasks: Sequence[str] | None = None) -> list[str]:
    """Return what all runs of tidy results have in common, or all of a task: attack, number of
    observations, estimator, number of simulations, seeds, unit of radii where they have several,
    scale. What differs within a task is for axes and legends to tell.

    Args:
        table: The results.
        tasks: Those that are drawn; None for all.
    """
    table = table if tasks is None else table[table.task.isin(tasks)]
    attacked = table[table.attack != "none"]
    first = [_names(attacked, "attack"), _observations(table)]
    second = [_names(table, "estimator"), *_training(table)]
    told = "; ".join(", ".join(filter(None, words)) for words in (first, second) if any(words))
    return [*_threats(attacked), *([f"{told}."] if told else [])]


def _observations(table: pd.DataFrame) -> str:
    """Return how many observations are attacked and of how many, less what is not finite."""
    counted, attacked = table.statistic == "num_observations", table.attack != "none"
    moved = attacked & table.metric.isin(["kl_forward", "kl_reverse"])
    clean = ~attacked & (table.metric == "nll")
    few, every = (_counts(table[counted & rows]) for rows in (moved, clean))
    both = few.str.cat(every, " of ") if len(few) and few.index.equals(every.index) else few
    texts, what = both if len(both) else every, " attacked" if len(few) else ""
    return f"{told_by_task(texts)} observations{what}" if len(texts) else ""


def _counts(rows: pd.DataFrame) -> pd.Series:
    """Return the number of observations of each task; none where one has several."""
    most = rows.groupby(["task", "run_id"]).value.max().dropna()
    each = most.groupby("task").unique()
    return each.map(lambda own: count_text(own[0])) if each.map(len).eq(1).all() else each[:0]


def _names(rows: pd.DataFrame, column: str) -> str:
    """Names of what each task has one of."""
    return by_task(rows, column, lambda value: line_name(column, value))


def _threats(attacked: pd.DataFrame) -> list[str]:
    """Units of radii, and where attacked observations stay, if these are not the same for all."""
    notes = []
    if len(attacked[["epsilon_unit", "norm"]].drop_duplicates()) > 1:
        units = {task: unit_name(rows) for task, rows in attacked.groupby("task")}
        texts = pd.Series(units).str.replace(" (", ", ").str.removesuffix(")")
        notes.append(f"Radii: in {told_by_task(texts)}.")
    if attacked.domain.nunique() > 1 and (
        domains := by_task(attacked, "domain", lambda name: LIMITS.get(name, name))
    ):
        notes.append(f"Attacked observations stay within {domains}.")
    return notes


def _training(rows: pd.DataFrame) -> list[str]:
    """Number of simulations, seeds and scale."""
    count = by_task(rows, "num_simulations", count_text)
    words = [f"{count} simulations"] if count else []
    words += _seeds(rows, "seed")
    if "data_seed" in rows and not rows.data_seed.eq(rows.seed).all():
        words += _seeds(rows, "data_seed")
    return words + ([f"{rows.scale.iloc[0]} scale"] if "scale" in rows else [])


def _seeds(rows: pd.DataFrame, column: str) -> list[str]:
    each = rows.dropna(subset=column).groupby("task")[column].unique()
    if each.empty:
        return []
    texts = each.map(lambda seeds: ", ".join(f"{seed:g}" for seed in sorted(seeds)))
    name = column.replace("_", " ") + "s" * bool(each.map(len).max() > 1)
    return [f"{name} {told_by_task(texts)}"]


def by_task(rows: pd.DataFrame, column: str, write: Callable[[Any], str]) -> str:
    """Return what a column says, where each task has one value; nothing where one has several."""
    finite = rows[~rows[column].isin([np.inf, -np.inf])].dropna(subset=column)
    each = finite.groupby("task")[column].unique()
    if each.empty or each.map(len).max() > 1:
        return ""
    return told_by_task(each.map(lambda own: write(own[0])))


def told_by_task(texts: pd.Series) -> str:
    """Return what texts by task say: what most have, and in brackets what others do."""
    told = {task: str(texts[task]) for task in in_paper_order(texts.index)}
    usual = Counter(told.values()).most_common(1)[0][0]
    each = "; ".join(f"{task_name(task)}: {text}" for task, text in told.items() if text != usual)
    return f"{usual} ({each})" if each else usual


def settings_note(rows: pd.DataFrame, compare: str) -> list[str]:
    """Return the settings of defenses that no name of a line tells, for the caption.

    Args:
        rows: Of all panels; in one panel, a line has one setting.
        compare: Column that tells lines apart.
    """
    names: dict[str, list[str]] = {}
    for defense, own in rows.groupby("defense", sort=False):
        told = []
        for column, what in STRENGTHS.items():
            known = own.dropna(subset=column)
            if column == compare or known.empty or f" {SHORT[column]}=" in str(defense):
                continue
            texts = known.groupby("task").apply(_of_lines, column, compare)
            told.append(f"{what} {told_by_task(texts)}")
        if told:
            names.setdefault("; ".join(told), []).append(line_name("defense", str(defense)))
    found = [f"{', '.join(lines)}: {text}." for text, lines in names.items()]
    return [note[0].upper() + note[1:] for note in found]


def _of_lines(rows: pd.DataFrame, column: str, compare: str) -> str:
    """Return a setting of one task and defense: with the lines that have it, if it has several."""
    pairs = rows.drop_duplicates([column, compare])
    if pairs[column].nunique() == 1:
        return f"{pairs[column].iloc[0]:g}"
    lines = pairs[compare].map(lambda value: line_name(compare, text_of(value)))
    return ", ".join(
        f"{value:g} for {line}" for value, line in zip(pairs[column], lines, strict=True)
    )


def _strengths(settings: pd.DataFrame) -> str:
    """Return what a defense has in turn, with a stroke between what varies together."""
    each = (" / ".join(f"{value:g}" for value in row) for row in settings.to_numpy())
    return ", ".join(each)


def strengths_note(runs: pd.DataFrame) -> list[str]:
    """Return what changes along lines, one for each `family` of defenses, for the caption."""
    notes = ["Along a line a defense gets stronger, and markers larger:"]
    for family, own in runs.groupby("family", sort=False):
        varying = [c for c in STRENGTHS if own.groupby("task")[c].nunique().max() > 1]
        if varying:
            own = own.dropna(subset=varying)[["task", *varying]].drop_duplicates()
            texts = own.sort_values(varying).groupby("task")[varying].apply(_strengths)
            what = " / ".join(STRENGTHS[column] for column in varying)
            notes.append(f"{line_name('defense', str(family))}, {what} {told_by_task(texts)};")
    if len(notes) > 1:
        return [" ".join(notes).removesuffix(";") + "."]
    return settings_note(runs.assign(defense=runs.family), "defense")


def rank_note(rows: pd.DataFrame) -> str:
    """Return how the example was chosen."""
    share = rows["quantile"].iloc[0]
    if share == 0.5:
        return "Example: the observation whose divergence without a defense is the median."
    return f"Example: the observation at the {100 * share:g} % quantile of undefended divergences."
