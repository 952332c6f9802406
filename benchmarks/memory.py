"""Peak memory of a large simulation set, which is written in chunks to mapped files.

    python benchmarks/memory.py [--simulations 1000000] [--features 1000]

Needs the disk space of the set (4 GB by default) in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import resource
import tempfile

import torch
from torch import Generator, Tensor
from torch.distributions import Independent, Normal

from robust_npe.store import Store, simulations
from robust_npe.tasks import Task


class Wide(Task):
    """White noise with many features: costs nothing but memory."""

    name = "wide"
    prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)

    def __init__(self, dim_x: int) -> None:
        self.dim_x = dim_x

    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        """See `Task.simulate`."""
        return torch.randn(len(theta), self.dim_x, generator=generator)


def peak() -> float:
    """Largest resident memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Simulate and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=1000)
    arguments = parser.parse_args()
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        task = Wide(arguments.features)
        pairs = simulations(Store(folder), task, {}, "train", arguments.simulations, 0)
        print(f"x {tuple(pairs.x.shape)}: peak {peak():.2f} GB, {before:.2f} GB before")


if __name__ == "__main__":
    main()
