"""Draw the figure of the README from the runs that `make readme-figure` makes first.

python scripts/readme_figure.py <output_dir> <file.png>
"""

from __future__ import annotations

import sys
from pathlib import Path

from robust_npe.plotting import save_figure, tolerance_plot
from robust_npe.store import collect


def main(output_dir: str, file: str) -> None:
    """Draw tolerance by defense, one panel per task."""
    figure = tolerance_plot(collect(Path(output_dir) / "runs"), compare="defense")
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, Path(file))
    print(file)


if __name__ == "__main__":
    main(*sys.argv[1:3])
