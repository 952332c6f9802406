"""What is audited: a posterior at observations, and what is known about where these come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from robust_npe.attacks import Ball
from robust_npe.checks import ConfigError, require
from robust_npe.posterior import Posterior, as_vectors, posterior_at
from robust_npe.random import draws_from, stream
from robust_npe.tasks import Task

__all__ = ["Case", "checked_rows"]


@dataclass(frozen=True)
class Case:
    """A posterior at observations, the threat, and simulations where there are any.

    Attributes:
        posterior: Any map from x to a distribution over theta.
        x: The observations, `(B, Dx)`.
        theta: The parameters that generated them, `(B, D)`, where they are known.
        task: Prior, simulator and names, as far as they are known; None: nothing is.
        reference: Simulations that the posterior was trained on, `(N, Dx)`: what is typical.
        held_out: Parameters and simulations that it was not trained on.
        epsilons: The radii, positive, in ascending order.
        ball: Returns the allowed perturbations of a radius, or of one for each row.
        unit: What a radius is, in words.
        about: What is audited and how, in words: title and text.
        names: Those of the parameters, `theta`, and of the features, `x`, where there is no task.
        seed: Seed of everything that is random.
    """

    posterior: Posterior
    x: Tensor
    theta: Tensor | None
    task: Task | None
    reference: Tensor | None
    held_out: tuple[Tensor, Tensor] | None
    epsilons: Sequence[float]
    ball: Callable[[float | Tensor], Ball]
    unit: str
    about: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    names: Mapping[str, Sequence[str] | None] = field(default_factory=dict)

    def generator(self, *purpose: str | int) -> Generator:
        """Return the random stream of a purpose."""
        return stream(self.seed, "audit", *purpose)

    def q(self, x: Tensor) -> Distribution:
        """Return the posterior at `x (B, Dx)`, one distribution for each row."""
        return posterior_at(self.posterior, x)

    @property
    def over_theta(self) -> Posterior:
        """The posterior over parameters, which is another one than what is attacked where that is
        over numbers of draws from the prior (`robust_npe.adapters.PriorDraws`)."""
        return getattr(self.posterior, "over_theta", self.posterior)

    @torch.no_grad()
    def draws(self, x: Tensor, num_samples: int) -> Tensor:
        """Return posterior samples `(S, B, D)`; from equal random numbers at every `x (B, Dx)`."""
        q = posterior_at(self.over_theta, x)
        with draws_from(self.generator("draws")):
            return as_vectors(q, q.sample((num_samples,)))

    @property
    def theta_names(self) -> list[str]:
        """Names of the parameters."""
        if self.task is not None:
            return self.task.theta_names
        given = self.names.get("theta")
        return list(given or (f"theta_{i + 1}" for i in range(self.dim_theta)))

    @property
    def x_names(self) -> list[str]:
        """Names of the features."""
        if self.task is not None:
            return self.task.x_names
        return list(self.names.get("x") or (f"x_{i + 1}" for i in range(self.x.shape[1])))

    @cached_property
    def dim_theta(self) -> int:
        """Number of parameters, as the posterior has them.

        Raises:
            ConfigError: It cannot be evaluated at x.
        """
        given = f"the posterior at x with {self.x.shape[1]} features"
        with torch.no_grad(), draws_from(self.generator("check")):
            try:
                return posterior_at(self.over_theta, self.x[:1]).event_shape.numel()
            except ConfigError:
                raise
            except Exception as error:
                what = " ".join(f"{type(error).__name__}: {error}".split())
                raise ConfigError(f"{given} raised {what}: does it take so many?") from error

    @property
    def scale(self) -> Tensor:
        """The unit of each feature in which perturbations are measured, `(Dx,)`."""
        scale = self.ball(1.0).scale
        return torch.ones_like(self.x[0]) if scale is None else scale.to(self.x)

    @property
    def embed(self) -> Callable[[Tensor], Tensor] | None:
        """The posterior's own summary of `x (B, Dx)`, None where it has none beyond x itself.

        A posterior offers it as a method `context`; an embedding that hands x on is none.
        """
        context = getattr(self.posterior, "context", None)
        own = getattr(self.posterior, "embedding", None)
        return None if context is None or type(own).__name__ == "Identity" else context

    def batches(self, size: int, count: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Yield x and theta of the first observations, batch by batch."""
        for start in range(0, min(count, len(self.x)), size):
            rows = slice(start, min(start + size, count))
            yield self.x[rows], None if self.theta is None else self.theta[rows]

    def check(self) -> list[str]:
        """Return the names of the features; raise a `ConfigError` unless the posterior takes x, and
        theta are its parameters."""
        if self.task is not None and self.task.dim_x != self.x.shape[1]:
            raise ConfigError(
                f"x has {self.x.shape[1]} features, the simulations have {self.task.dim_x}."
            )
        if self.task is not None and self.task.dim_theta != self.dim_theta:
            raise ConfigError(
                f"the posterior has {self.dim_theta} parameters, the simulations have "
                f"{self.task.dim_theta}."
            )
        for what, found in (("theta", self.dim_theta), ("x", self.x.shape[1])):
            names = getattr(self, f"{what}_names")
            expected = f"{found}, those of {what} as the posterior has it"
            require(len(names) == found, f"number of names of {what}", len(names), expected)
        if self.theta is not None:
            shape, wanted = tuple(self.theta.shape), (len(self.x), self.dim_theta)
            require(shape == wanted, "shape of theta", shape, f"{wanted}, one row for each x")
        return self.x_names


def checked_rows(name: str, values: Any) -> Tensor:
    """Return what is a tensor, an array or a list of numbers as float32 rows `(B, K)`, all finite.

    Raises:
        ConfigError: Something else, with the first row that is wrong.
    """
    try:
        values = values if isinstance(values, Tensor) else np.asarray(values)
        rows = torch.as_tensor(values).detach().cpu().float()
    except (TypeError, ValueError, RuntimeError) as error:
        given = str(error).splitlines()[0]
        raise ConfigError(f"{name} is no array of numbers: {given}.") from error
    rows = rows.unsqueeze(0) if rows.ndim == 1 else rows.flatten(1) if rows.ndim > 2 else rows
    shape = tuple(rows.shape)
    require(rows.ndim == 2 and rows.numel() > 0, f"shape of {name}", shape, "(B, number of values)")
    wrong = (~rows.isfinite().all(1)).nonzero().flatten().tolist()
    if wrong:
        raise ConfigError(
            f"{name} has entries that are not finite in {len(wrong)} of {len(rows)} rows, first in "
            f"row {wrong[0] + 1}: leave them out."
        )
    return rows
