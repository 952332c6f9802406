"""`robust-npe pareto`: which settings of defenses are worth choosing, from stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig

from robust_npe.checks import ConfigError, require, require_not_negative, require_positive
from robust_npe.config import ParetoConfig, checked
from robust_npe.files import write_atomically
from robust_npe.pareto import best_within, fronts
from robust_npe.plotting import NothingToDrawError, pareto_plot, save_figure
from robust_npe.plotting.cells import marks_note, marks_of
from robust_npe.plotting.names import defense_name
from robust_npe.store import collect

__all__ = ["main"]


def main(config: DictConfig) -> str:
    """Write a table of all settings, draw them, and return those that no others beat.

    Args:
        config: Composed configuration, see `conf/pareto.yaml`.

    Raises:
        ConfigError: No stored run has what is asked for, or there is nothing to compare.
    """
    settings = checked(config, ParetoConfig)
    epsilon, quantity, most = (settings[key] for key in ("epsilon", "quantity", "max_nll_loss"))
    require_positive("epsilon", epsilon)
    require_not_negative("max_nll_loss", most)
    output = Path(settings["output_dir"])
    path = Path(settings["to"] or output / "pareto.csv")
    require(path.suffix == ".csv", "to", str(path), "a path that ends in .csv")
    try:
        points = fronts(collect(output / "runs"), epsilon, quantity)
    except NothingToDrawError as error:
        raise ConfigError(f"{output} has {error}.") from error
    count = points.groupby("group").defense.transform("size")
    points = points[count > 1]  # others have nothing to be compared with
    if points.empty:
        raise ConfigError(f"{output} has one setting for each task: train with defense=none,fim.")
    write_atomically(path, points.to_csv(index=False, lineterminator="\n").encode())
    figure = path.with_suffix(".png")
    save_figure(pareto_plot(points, most, epsilon), figure)
    tables = [_front(str(name), own, quantity) for name, own in points.groupby("group", sort=False)]
    return "\n\n".join([*tables, _answer(points, most), f"wrote:\n  {path}\n  {figure}"])


def _front(name: str, points: pd.DataFrame, quantity: str) -> str:
    """Return the table of what no others beat."""
    front = points[points.non_dominated]
    title = f"{name}: {len(front)} of {len(points)} settings are not dominated"
    relative = f"above {points.relative_to.iloc[0]}"
    table = pd.DataFrame(
        {
            "defense": front.apply(_setting, axis=1),
            "NLL": front.nll.map("{:.4g}".format),
            relative: front.loss.map("{:+.3f}".format),
            quantity: front.kl.map("{:.3g}".format),
            "seeds": front.seeds,
            "": front.apply(marks_of, axis=1),
        }
    )
    return "\n".join([title, table.to_string(index=False), *marks_note(front)])


def _answer(points: pd.DataFrame, most: float) -> str:
    """Return which setting of each defense to take where NLL may be lost."""
    best = best_within(points, most)
    lines = [f"for at most {most:g} nats of NLL, the most robust setting of each defense:"]
    plain = points[points.defense == "none"].groupby("group").kl.min()
    for name, row in zip(best.group, best.to_dict("records"), strict=True):
        cost = f"{row['loss']:+.3f} nats relative to {row['relative_to']}"
        if row["loss"] > most:
            what = f"{row['defense']}: none; the cheapest, {_setting(row)}, costs {cost}"
        else:
            instead = f" instead of {plain[name]:.3g}" if name in plain else ""
            what = f"{_setting(row)}: KL {row['kl']:.3g}{instead}, for {cost}"
        lines.append(f"  {name}: {what}{marks_of(row)}")
    return "\n".join(lines if len(lines) > 1 else [*lines, "  no defense was trained"])


def _setting(row: Any) -> str:
    keys = ("defense", "beta", "defense_epsilon", "defense_settings")
    return defense_name(*(row[key] for key in keys))
