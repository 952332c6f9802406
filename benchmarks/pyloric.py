"""Speed of the pyloric simulator: float32 lanes against the exact float64 scalar mode, per core.

    python benchmarks/pyloric.py

Both run on one thread and alternate, so that a change of the machine's speed meets both. Rates are
per second of processor time, so that other work on the machine counts less; the best and the
median of the repeats are reported. `--threads N` adds float32 runs on N threads, per second of
wall time.
"""

from __future__ import annotations

import argparse
import logging
import platform
import time
from collections.abc import Callable

import llvmlite.binding
import numba
import numpy as np

from robust_npe.tasks import pyloric


def seconds(job: Callable[[], object], clock: Callable[[], float]) -> float:
    """Time of one call."""
    start = clock()
    job()
    return clock() - start


def row(name: str, rates: list[float]) -> None:
    """Print best and median rate."""
    print(f"{name:38s} best {max(rates):8.1f}/s   median {np.median(rates):8.1f}/s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--threads", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    low, high = np.array(pyloric.PRIOR_LOW), np.array(pyloric.PRIOR_HIGH)
    theta = low + (high - low) * np.random.default_rng(0).random((256, 31))
    noise = 1e-3 * np.stack([pyloric.normals(0, i, 80_000) for i in range(8)])

    def lanes(count: int, threads: int = 1) -> Callable[[], object]:
        return lambda: pyloric.simulate(theta[:count], 0, num_threads=threads)

    def exact() -> object:
        return pyloric.simulate_exact(theta[:8], noise, num_threads=1)

    trace = pyloric.simulate(theta[:16], 0, t_max=11_000.0, every=1).voltage
    jobs: dict[str, tuple[int, Callable[[], object]]] = {
        "float32 lanes, noisy, 1 thread": (64, lanes(64)),
        "exact float64, given noise, 1 thread": (8, exact),
        "statistics of 11 s runs, 1 thread": (16, lambda: pyloric.summarize(trace, num_threads=1)),
    }
    if arguments.threads:
        name = f"float32 lanes, noisy, {arguments.threads} threads"
        jobs[name] = (256, lanes(256, arguments.threads))
    rates: dict[str, list[float]] = {name: [] for name in jobs}
    for job in (lanes(16), exact):
        job()  # compile
    for _ in range(arguments.repeats):
        for name, (count, job) in jobs.items():
            clock = time.process_time if "1 thread" in name else time.perf_counter
            rates[name].append(count / seconds(job, clock))

    print(f"{llvmlite.binding.get_host_cpu_name()}, {platform.system()}, numba {numba.__version__}")
    print("simulations of 2000 ms at dt 0.025 ms (80000 steps)")
    for name, values in rates.items():
        row(name, values)
    fast, slow = list(rates.values())[:2]
    ratios = np.array(fast) / np.array(slow)
    print(f"float32 lanes are {np.median(ratios):.0f} times faster per core (median of repeats)")


if __name__ == "__main__":
    main()
