"""Distractors of a benchmark task: a mixture of multivariate Student t distributions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Generator, Tensor

__all__ = ["Distractors"]


class Distractors:
    """Equally weighted Student t distributions with two degrees of freedom, in float64.

    It only draws samples. Random triangular factors of many dimensions are too badly conditioned
    for a density: solving with them loses every digit of float64.

    Args:
        location: Centres, shape `(K, D)`.
        factor: Lower triangular factors of the scale matrices, shape `(K, D, D)`.
    """

    def __init__(self, location: Tensor, factor: Tensor) -> None:
        self.location = location
        self.factor = factor

    @classmethod
    def random(cls, numbers: np.random.RandomState, components: int, dim: int) -> Distractors:
        """Draw a mixture in the order of draws that sbibm used, so that seed 42 gives its own."""
        location = np.array([15 * numbers.normal(size=dim) for _ in range(components)])
        factor = np.array(
            [
                np.tril(numbers.normal(size=(dim, dim))) + np.diag(np.exp(numbers.normal(size=dim)))
                for _ in range(components)
            ]
        )
        return cls(torch.from_numpy(location), torch.from_numpy(3 * factor))

    def sample(self, num_samples: int, generator: Generator) -> Tensor:
        """Draw samples of shape `(num_samples, D)`."""
        count, dim = self.location.shape
        component = torch.randint(count, (num_samples,), generator=generator)
        noise = torch.randn(num_samples, dim, generator=generator, dtype=torch.float64)
        # half a chi-square variable with two degrees of freedom is exponential
        uniform = torch.rand(num_samples, 1, generator=generator, dtype=torch.float64)
        noise = noise / torch.sqrt(-torch.log1p(-uniform))
        samples = torch.empty_like(noise)
        for k in range(count):
            rows = component == k
            samples[rows] = self.location[k] + noise[rows] @ self.factor[k].T
        return samples
