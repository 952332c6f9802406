"""Draw the tolerance and the coverage plot from the tidy tables of all stored runs.

    python scripts/overview.py [output_dir]

Reads <output_dir>/runs/*/results.csv (default: outputs) and writes <output_dir>/figures/*.png:
one pair of plots for each setting of what may not be mixed in one panel (estimator, number of
simulations, seed of the data, norm, unit, domain, objective), with all tasks, attacks and
defenses of that setting. What runs did not measure, and damaged runs, are named and left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from robust_npe.plotting.overview import draw_overview
from robust_npe.store import StoreError, collect


def main() -> int:
    """Draw everything and list what was written."""
    output = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs")
    try:
        for path in draw_overview(collect(output / "runs"), output / "figures"):
            print(path)
    except (StoreError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
