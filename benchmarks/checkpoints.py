"""What checkpoints cost a training at laptop scale.

    python benchmarks/checkpoints.py

Trains the default flow on 10,000 pairs with a checkpoint every 30 s, and reports what share of the
time writing took, by the clock and by the processor; and what one checkpoint costs and weighs.
A share measured in one training is far more precise than the difference of two trainings.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import suppress
from pathlib import Path

import torch

from robust_npe.defenses import FIM, Defense, NoDefense
from robust_npe.estimators import MAF, Estimator, Identity
from robust_npe.random import draws_from, stream
from robust_npe.tasks import GaussianLinear
from robust_npe.training import Checkpoint, TrainingSettings, train
from robust_npe.training.checkpoints import Resumable

EVERY = 30.0
MAX_EPOCHS = 1000
SECONDS = 100.0


class Measured(Checkpoint):
    """Counts what it costs, and ends the training after some seconds."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, EVERY)
        self.costs: list[tuple[float, float]] = []
        self.first: tuple[float, float] | None = None

    def write_if_due(self, state: Resumable) -> None:
        """Write if it is time to; the first step, which compiles, is not counted."""
        now = time.perf_counter(), time.process_time()
        self.first = self.first or now
        super().write_if_due(state)
        if now[0] - self.first[0] > SECONDS:
            raise TimeoutError

    def write(self, state: Resumable) -> None:
        """Write, and remember for how long."""
        before = time.perf_counter(), time.process_time()
        super().write(state)
        wall, cpu = time.perf_counter() - before[0], time.process_time() - before[1]
        self.costs.append((wall, cpu))


def measure(defense: Defense, path: Path) -> str:
    """Train for some seconds and return a line about it."""
    task, generator = GaussianLinear(), stream(0, "benchmark")
    with draws_from(generator):
        estimator = Estimator.for_task(task, MAF, Identity, "zscore")
    both = []
    for count in (10_000, 512):
        theta = task.sample_prior(count, generator)
        both.append((theta, task.simulate(theta, generator)))
    checkpoint = Measured(path)
    settings = TrainingSettings(max_epochs=MAX_EPOCHS, patience=MAX_EPOCHS)
    with suppress(TimeoutError):
        train(estimator, defense, *both, settings, generator, checkpoint)
    assert checkpoint.first is not None
    wall, cpu = (sum(c[i] for c in checkpoint.costs) for i in (0, 1))
    share = 100 * wall / (time.perf_counter() - checkpoint.first[0])
    cpu_share = 100 * cpu / (time.process_time() - checkpoint.first[1])
    count = len(checkpoint.costs)
    return (
        f"{defense.name}: {count} checkpoints of {path.stat().st_size / 2**20:.2f} MiB, "
        f"{1000 * wall / count:.1f} ms each: {share:.3f} % of the time, {cpu_share:.3f} % of CPU"
    )


def main() -> None:
    """Measure without a defense and with one."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for defense in (NoDefense(), FIM(0.01)):
            print(measure(defense, Path(folder) / defense.name), flush=True)


if __name__ == "__main__":
    main()
