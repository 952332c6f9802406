"""Wall times of a sweep of 24 small jobs: launchers, and the same command again.

    .venv/bin/python benchmarks/sweeps.py

It runs from empty stores in a temporary folder, compares the results of both launchers byte for
byte, and prints a table for benchmarks/README.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROBUST_NPE = (sys.executable, "-m", "robust_npe.cli")
JOBS = ("scale=smoke", "plots=false", "task=gaussian_linear,sir", "defense=none,fim", "epsilon=1")
JOBS += ("seed=0,1,2,3,4,5", "num_simulations=2000", "training.max_epochs=20")
CORES = ("hydra/launcher=cores", "hydra.launcher.n_jobs=2")


def seconds(*words: str) -> float:
    """Run a command and return its wall time."""
    started = time.perf_counter()
    subprocess.run([*ROBUST_NPE, *words], check=True, capture_output=True)
    return time.perf_counter() - started


def cpu_seconds(*words: str) -> float:
    """Run a command and return its time on processors."""
    before = os.times()
    seconds(*words)
    after = os.times()
    return after.children_user + after.children_system - before[2] - before[3]


def results(output: Path) -> dict[str, bytes]:
    """Return the tables of all runs, without the times of trainings and attacks."""
    return {
        str(path.relative_to(output)): b"\n".join(
            line for line in path.read_bytes().splitlines() if b",seconds," not in line
        )
        for path in output.glob("runs/*/*.csv")
    }


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = {name: Path(folder, name) for name in ("basic", "cores")}
        sweep = ("train", "-m", *JOBS)
        basic = seconds(*sweep, f"output_dir={outputs['basic']}")
        cores = seconds(*sweep, *CORES, f"output_dir={outputs['cores']}")
        again = seconds(*sweep, f"output_dir={outputs['basic']}")
        tables = [results(output) for output in outputs.values()]
        same = "same" if tables[0] == tables[1] and len(tables[0]) == 48 else "DIFFERENT"
    print("| 24 small jobs | |\n|---|---|")
    print(f"| basic | {basic:.1f} s |")
    print(f"| cores, two processes | {cores:.1f} s, {cores / basic:.2f} of basic, {same} tables |")
    print(f"| basic again, nothing to compute | {again:.1f} s |")
    print(f"| `--help` | {cpu_seconds('--help'):.2f} s CPU |")
    print(f"| `train --cfg job` | {seconds('train', '--cfg', 'job'):.1f} s |")


if __name__ == "__main__":
    main()
