"""Spatial SIR: an epidemic on a grid of cells, seen through an imperfect test of every cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.distributions import Independent, LogNormal
from typing_extensions import override

from robust_npe.checks import require, require_positive, require_positive_integer
from robust_npe.tasks.base import Task
from robust_npe.tasks.plots import draw_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["SpatialSIR"]

BLOCK = 1024


class SpatialSIR(Task):
    """Contact and recovery rate of an epidemic on a 30 x 30 grid; x is the tested grid.

    theta = (beta, gamma) ~ LogNormal(0, 0.5) each. Every cell is infected at first with
    probability 4 / 900. In each of 10 steps a susceptible cell is infected with probability
    beta / 8 times the number of infected cells among its eight neighbours, and an infected cell
    recovers with probability gamma. The test gives Beta(0.05, 1.05) for a healthy cell and
    Beta(1.05, 0.05) for an infected one. The likelihood is intractable: it sums over all grids.

    Source: Gloeckler, Deistler & Macke (2023), "Adversarial robustness of amortized Bayesian
    inference", https://arxiv.org/abs/2305.14984. In its experiments a cell that recovers still
    infects, and still tests as infected, during the step after; without that most epidemics are
    over before they are tested. `delayed_recovery=False` is the plain rule. Unlike there, the
    random numbers of different simulations are independent.

    Args:
        size: Cells along each side, at least 2.
        num_steps: Steps before the test, at least 1.
        num_seeds: Expected number of cells infected at first, in (0, size^2].
        test_error: 0.05 above: the smaller, the better the test; positive.
        delayed_recovery: Whether recovery takes effect one step later.
    """

    name = "spatial_sir"
    embedding = "mlp"

    def __init__(
        self,
        size: int = 30,
        num_steps: int = 10,
        num_seeds: float = 4.0,
        test_error: float = 0.05,
        delayed_recovery: bool = True,
    ) -> None:
        require(size >= 2, "task.size", size, "at least 2")
        require_positive_integer("task.num_steps", num_steps)
        require(0 < num_seeds <= size**2, "task.num_seeds", num_seeds, f"in (0, {size**2}]")
        require_positive("task.test_error", test_error)
        self.size, self.num_steps, self.num_seeds = size, num_steps, float(num_seeds)
        self.test_error = float(test_error)
        self.delayed_recovery = delayed_recovery
        self.dim_x = size**2
        self.prior = Independent(LogNormal(torch.zeros(2), 0.5 * torch.ones(2)), 1)

    @property
    def theta_names(self) -> list[str]:
        """Contact and recovery rate."""
        return ["beta", "gamma"]

    @property
    def x_names(self) -> list[str]:
        """Row and column of each cell."""
        return [f"cell({i},{j})" for i in range(self.size) for j in range(self.size)]

    @property
    def domain(self) -> tuple[Tensor, Tensor]:
        """A test result lies between 0 and 1."""
        return torch.zeros(self.dim_x), torch.ones(self.dim_x)

    @override
    def simulate(self, theta: Tensor, generator: Generator) -> Tensor:
        x = torch.empty(len(theta), self.dim_x)
        for rows, out in zip(theta.split(BLOCK), x.split(BLOCK), strict=True):
            infected = self.epidemic(rows, generator).flatten(1)
            noise = _beta(infected.shape, self.test_error, generator)
            torch.where(infected, 1 - noise, noise, out=out)
        return x

    def epidemic(self, theta: Tensor, generator: Generator) -> Tensor:
        """Simulate the grid of infected cells for theta `(B, 2)`: bool, shape `(B, size, size)`.

        Random numbers are drawn only for cells that can change, which are few.
        """
        contact, recovery = theta[:, 0].contiguous(), theta[:, 1].contiguous()
        count, cells = len(theta), self.dim_x
        grid = torch.zeros(count, self.size + 2, self.size + 2, dtype=torch.uint8)
        infected = grid[:, 1:-1, 1:-1]
        seeds = torch.rand(infected.shape, generator=generator) < self.num_seeds / cells
        infected.copy_(seeds)
        susceptible = ~seeds.flatten()
        leaving = torch.zeros_like(susceptible)
        for _ in range(self.num_steps):
            ill = infected.flatten()
            exposure = _neighbourhood(grid).flatten()
            at_risk = (susceptible & (exposure > 0)).nonzero()[:, 0]
            chance = contact[at_risk // cells] * exposure[at_risk] / 8
            caught = at_risk[chance > torch.rand(len(chance), generator=generator)]
            sick = ill.nonzero()[:, 0]
            luck = torch.rand(len(sick), generator=generator)
            recovered = sick[recovery[sick // cells] > luck]
            ill[caught] = 1
            susceptible[caught] = False
            if self.delayed_recovery:
                ill[leaving] = 0
                leaving[recovered] = True
            else:
                ill[recovered] = 0
            infected.copy_(ill.view_as(infected))
        return infected.bool()

    def plot(self, axes: Axes, x: Tensor, **style: Any) -> None:
        """Draw the tested grid x `(Dx,)`, or the mean of predictive samples `(S, Dx)`."""
        draw_image(axes, x, (self.size, self.size), **{"cmap": "inferno"} | style)


def _neighbourhood(grid: Tensor) -> Tensor:
    """Sum the 3 x 3 neighbourhood of each inner cell of `grid (B, n + 2, n + 2)`."""
    rows = grid[:, :-2] + grid[:, 1:-1]
    rows += grid[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1]
    total += rows[:, :, 2:]
    return total


def _beta(shape: torch.Size, a: float, generator: Generator) -> Tensor:
    """Draw from Beta(a, 1 + a).

    Joehnk (1964): given that U^(1/a) + V^(1/b) is at most 1, the share of the first is Beta(a, b).
    """
    out = torch.empty(shape)
    flat = out.view(-1)
    todo = torch.arange(len(flat))
    while len(todo):
        # 1 - rand is never 0
        first, second = (1 - torch.rand(2, len(todo), generator=generator)).log_()
        first = first.div_(a).exp_()
        second = second.div_(1 + a).exp_()
        total = first + second
        flat[todo] = first.div_(total)
        todo = todo[total > 1]
    return out
