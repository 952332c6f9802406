"""The unnormalised posterior of one observation, on an unbounded space."""

from __future__ import annotations

import torch
from torch import Tensor

from robust_npe.checks import ConfigError, require
from robust_npe.estimators.bijection import Bijection
from robust_npe.random import stream
from robust_npe.tasks.base import Task

__all__ = ["ImpossibleObservationError", "Target", "check_likelihood"]

BLOCK = 8192  # parameters whose likelihood is computed together: bounds the memory


class ImpossibleObservationError(ValueError):
    """The likelihood of an observation is zero wherever it was looked for."""


def check_likelihood(task: Task) -> None:
    """Raise a `ConfigError` unless the task has a tractable likelihood."""
    if not task.knows("log_likelihood"):
        raise ConfigError(
            f"task {task.name} has no tractable likelihood, so its true posterior cannot be "
            "computed from prior and likelihood. Choose a task with `log_likelihood`, such as "
            "lotka_volterra, sir, vae or one of sbibm."
        )


class Target:
    """log p(x, theta) as a function of unbounded coordinates z, with theta = f(z).

    f is the bijection onto the support of the prior, scaled so that the prior has mean 0 and
    variance 1 in z. All arithmetic is in float64, but theta is rounded to float32, which is what
    samples are stored in: densities belong to exactly the samples that are handed out. Where theta
    is so close to the edge of the support that it is rounded onto it, the density is taken as 0.

    Args:
        task: A task with `log_likelihood`.
        x: One observation, shape `(Dx,)`, finite.

    Attributes:
        evaluations: Number of likelihoods computed so far.

    Raises:
        ConfigError: The task has no likelihood, or x has the wrong shape or is not finite.
    """

    def __init__(self, task: Task, x: Tensor) -> None:
        check_likelihood(task)
        require(x.shape == (task.dim_x,), "x.shape", tuple(x.shape), f"({task.dim_x},)")
        require(bool(x.isfinite().all()), "x", x, "free of NaN and infinite values")
        self.task = task
        self.x = x.detach().cpu()
        self.dim = task.dim_theta
        self.evaluations = 0
        self.bijection = Bijection(task.dim_theta, task.support).double()
        prior_draws = task.sample_prior(1000, stream(0, "scale of the prior"))
        self.bijection.fit(prior_draws.double())

    @torch.no_grad()
    def to_theta(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map z `(N, D)` to theta, log |det dtheta/dz| `(N,)`, and where both are regular."""
        theta = self.bijection(z).float().double()
        inside = theta.isfinite().all(-1) & self.task.support.check(theta)
        stand_in = self.bijection(torch.zeros_like(z[:1]))
        theta = torch.where(inside.unsqueeze(-1), theta, stand_in)
        rounded, log_det = self.bijection.inverse_and_log_det(theta)
        regular = inside & rounded.isfinite().all(-1) & log_det.isfinite()
        return torch.where(regular.unsqueeze(-1), theta, stand_in), -log_det, regular

    @torch.no_grad()
    def to_z(self, theta: Tensor) -> Tensor:
        """Map theta `(N, D)` inside of the support to z."""
        return self.bijection.inverse_and_log_det(theta.double())[0]

    @torch.no_grad()
    def log_joint(self, theta: Tensor) -> Tensor:
        """Return log p(x|theta) + log p(theta) for theta `(N, D)`: float64, NaN never."""
        self.evaluations += len(theta)
        blocks = [self.task.log_likelihood(part, self.x) for part in theta.split(BLOCK)]
        value = torch.cat(blocks).double() + self.task.prior.log_prob(theta).double()
        return value.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)

    def __call__(self, z: Tensor) -> Tensor:
        """Return the log density of x and z `(N, D)` up to no constant: its integral is p(x)."""
        theta, log_det, regular = self.to_theta(z)
        return torch.where(regular, self.log_joint(theta) + log_det, -torch.inf)
