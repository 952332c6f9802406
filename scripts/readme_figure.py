"""Draw the figure of the README and print the numbers below it; `make readme-figure` calls it.

python scripts/readme_figure.py <output_dir> <file.png>
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from robust_npe.plotting import save_figure, tolerance_plot
from robust_npe.store import collect


def main(output_dir: str, file: str) -> None:
    """Draw tolerance by defense, one panel per task."""
    table = collect(Path(output_dir) / "runs")
    figure = tolerance_plot(table, compare="defense")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, Path(file))
    print(file)
    print(_clean_numbers(table).to_string(float_format="%.2f"))


def _clean_numbers(table: pd.DataFrame) -> pd.DataFrame:
    """What robustness costs: likelihood and calibration on clean data."""
    clean = table[(table.attack == "none") & table.metric.isin(["nll", "coverage"])]
    clean = clean[clean.statistic.isin(["mean", "mean_absolute_error"])]
    return clean.pivot_table(index=["metric", "defense"], columns="task", values="value")


if __name__ == "__main__":
    main(*sys.argv[1:3])
