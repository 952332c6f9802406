"""Randomised smoothing: the average of the posteriors at noisy copies of the observation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from robust_npe.attacks import std_unit
from robust_npe.checks import require, require_positive
from robust_npe.defenses.base import Defense
from robust_npe.defenses.post_hoc import PostHoc
from robust_npe.mixtures import EvenMixture
from robust_npe.posterior import Posterior
from robust_npe.random import stream
from robust_npe.tasks.base import Task
from robust_npe.tasks.pairs import draw_pairs

__all__ = ["SmoothedPosterior", "Smoothing"]

NUMBERS = 2**24  # of noisy copies of x that enter the network at once: bounds the memory
UNIT_SIMULATIONS = 4000  # which settle the unit to about 1 %


class SmoothedPosterior(nn.Module):
    """x -> 1/M sum_m q(.|x + sigma z_m), for draws z_m of N(0, I) that are the same for every x.

    The noise is fixed, so that this is a function of x like any other posterior, whose gradient an
    attack sees in full. The ideal E_z q(.|x + sigma z) is approached as M grows.

    Args:
        posterior: q.
        sigma: Standard deviation of the noise in units of x.
        dim_x: Number of features Dx.
        draws: Number of draws M, even.
    """

    def __init__(self, posterior: Posterior, sigma: float, dim_x: int, draws: int = 64) -> None:
        super().__init__()
        self.posterior = posterior
        self.sigma = sigma
        self.draws = draws
        noise = coupled_normal(draws, dim_x, stream(draws, "smoothing"))
        self.noise: Tensor
        self.register_buffer("noise", noise.float())

    def forward(self, x: Tensor) -> EvenMixture:
        """Return the mixture for `x (B, Dx)`."""
        x = torch.as_tensor(x, dtype=self.noise.dtype)
        noise = self.sigma * self.noise.to(x.device).unsqueeze(1)
        some = noise.split(max(1, NUMBERS // max(x.numel(), 1)))
        return EvenMixture([self.posterior((x + part).flatten(0, 1)) for part in some], len(x))

    def with_draws(self, draws: int) -> SmoothedPosterior:
        """Return the same with another number of draws, which are other ones."""
        smoothed = SmoothedPosterior(self.posterior, self.sigma, self.noise.shape[1], draws)
        smoothed.noise = smoothed.noise.to(self.noise)  # not `smoothed.to`: it would move q as well
        return smoothed


class Smoothing(PostHoc):
    r"""q_s(.|x) = E_u q(.|x + u) with u ~ N(0, s^2 I): no small change of x can matter much.

    By the data-processing inequality, KL(q_s(.|x) || q_s(.|x~)) <= |x~ - x|^2 / (2 s^2) for any q,
    in both directions. That is true of the expectation. What is deployed is its estimate from
    `draws` fixed draws, which has no such certificate; the metric `smoothing_bias` shows how far
    the two are apart. Best with a base that has seen noise in training.

    References:
        Cohen, Rosenfeld & Kolter (2019), "Certified adversarial robustness via randomized
        smoothing", https://arxiv.org/abs/1902.02918

    Args:
        base: What the network is trained with.
        sigma: Standard deviation s of the noise in `unit`, positive.
        draws: Number of draws, even: as many network passes for each x.
        unit: `std`: the mean standard deviation over the features of one observation, as for
            `epsilon_unit=std`, from 4000 simulations of a fixed seed; `absolute`: one unit of x.
    """

    name = "smoothing"

    def __init__(
        self,
        base: Defense,
        sigma: float = 0.5,
        draws: int = 64,
        unit: Literal["std", "absolute"] = "std",
    ) -> None:
        super().__init__(base)
        require_positive("defense.sigma", sigma)
        even = draws > 0 and draws % 2 == 0
        require(even, "defense.draws", draws, "a positive even integer")
        require(unit in ("std", "absolute"), "defense.unit", unit, "std or absolute")
        self.sigma = sigma
        self.draws = draws
        self.unit = unit

    @override
    def check(self, task: Task) -> None:
        super().check(task)
        expected = f"absolute for x with a single feature, as of task {task.name}"
        require(self.unit == "absolute" or task.dim_x > 1, "defense.unit", self.unit, expected)

    @override
    def combine(self, posteriors: Sequence[Posterior], task: Task) -> SmoothedPosterior:
        (posterior,) = posteriors
        sigma = self.sigma * (1.0 if self.unit == "absolute" else _unit(task))
        return SmoothedPosterior(posterior, sigma, task.dim_x, self.draws)


def _unit(task: Task) -> float:
    """Return the unit of the published radii, see `std_unit`, from fresh simulations: the data that
    a stored network was trained on may be elsewhere."""
    return std_unit(draw_pairs(task, UNIT_SIMULATIONS, stream(0, "unit of sigma"))[1])


def coupled_normal(num: int, dim: int, generator: Generator) -> Tensor:
    """Return `num` draws of N(0, I) of shape `(num, dim)`, float64, which together are spread more
    evenly than independent ones: in blocks of orthogonal directions, each with its opposite.

    References:
        Rowland et al. (2018), "Geometrically coupled Monte Carlo sampling", NeurIPS 31.
    """
    half, blocks = num // 2, []
    for start in range(0, half, dim):
        shape = (dim, min(dim, half - start))
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        length = torch.randn(shape, generator=generator, dtype=torch.float64).norm(dim=0)
        blocks.append((torch.linalg.qr(normal).Q * length).T)
    draws = torch.cat(blocks)
    return torch.cat((draws, -draws))
