"""Compute what figures need and no run has yet, in two processes, and draw them.

    python scripts/figures.py [figure4 ...] [--scale laptop] [--seeds 3]
                              [--output outputs] [--list]
    python scripts/figures.py --tables docs/gallery/tables --output docs/gallery

Without names, all. Can be interrupted: the same command continues. `make figures` and the like call
it. With --tables it draws from tables that were committed, and computes nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import torch

from robust_npe.interruption import INTERRUPTED, interruptible
from robust_npe.recipes import ERRORS, SCALES, Runner, draw_from, require_left_out, scripts

FOLDER = Path(__file__).parent
LAST = "figure6"  # its simulations take longest


def names(given: list[str]) -> list[str]:
    """Return those that were asked for, or all."""
    return given or sorted(scripts(FOLDER), key=lambda name: (name == LAST, name))


def compute(options: argparse.Namespace) -> int:
    """Compute and draw, or list; return the exit status."""
    started = time.perf_counter()
    scale = "laptop" if options.scale is None else options.scale
    runner = Runner(FOLDER, names(options.names), scale, options.output, seeds=options.seeds)
    if options.list:
        for line in runner.listing():
            print(line, flush=True)
        return 0
    with interruptible():
        runner.run()
    for failure in runner.failures:
        sys.stderr.write(f"failed: {failure}\n")
    minutes = (time.perf_counter() - started) / 60
    print(f"{options.output / 'figures'}: {runner.computed} runs computed, {minutes:.1f} minutes")
    return 1 if runner.failures else 0


def main() -> int:
    """Read the options and do as they say."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("names", nargs="*", help="figures, such as figure4; all if none is named")
    parser.add_argument("--scale", help=f"{', '.join(SCALES)}; laptop if none is given")
    parser.add_argument("--seeds", type=int, help="number of seeds; that of the scale if not given")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="output_dir of runs")
    parser.add_argument("--tables", type=Path, help="draw PNGs from the tables in this folder")
    parser.add_argument("--list", action="store_true", help="list the runs, and compute nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        if options.tables is None:
            return compute(options)
        told = {"--scale": options.scale, "--seeds": options.seeds, "--list": options.list}
        require_left_out(told)
        for path in draw_from(FOLDER, options.names, options.tables, options.output):
            print(path)
    except BrokenPipeError:  # e.g. `--list | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except ERRORS as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"figures: {line}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"figures: {INTERRUPTED}\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
