"""What an attack is, and the baseline: noise."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from typing_extensions import override

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.objectives import Objective
from robust_npe.checks import ConfigError
from robust_npe.components import Component
from robust_npe.posterior import Posterior
from robust_npe.random import child

__all__ = [
    "Attack",
    "Found",
    "Noise",
    "SurfaceNoise",
    "best_of",
    "blindness",
    "comparable",
    "frozen",
    "settings",
]

BLIND = 0.05  # share of steps without a gradient above which people are told


@dataclass(frozen=True)
class Found:
    """What an attack found.

    Attributes:
        x_adv: x~ of shape `(B, Dx)`, inside of ball and domain, without graph.
        zero_gradients: For each observation, the share of gradient steps whose gradient was zero
            or not finite, shape `(B,)`; None for an attack without gradients. Where it is large,
            the attack could not see where to go, and says little about robustness.
    """

    x_adv: Tensor
    zero_gradients: Tensor | None = None


class Attack(Component, ABC):
    """Searches in a ball around each observation for one that misleads the posterior.

    Constructor arguments are kept as attributes of the same name, which is how `settings` finds
    them.
    """

    def __call__(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None = None,
        *,
        ball: Ball,
        generator: Generator,
    ) -> Tensor:
        """Return perturbed observations x~ of shape `(B, Dx)`; arguments as for `search`."""
        return self.search(posterior, x, theta, ball, generator).x_adv

    def check(self, dim_theta: int) -> None:
        """Raise a `ConfigError` where an objective does not fit parameters of this dimension."""
        for part in _parts(self):
            part.check(dim_theta)

    @property
    def needs_theta(self) -> bool:  # type: ignore[override]
        """Whether an objective uses the parameters that generated x."""
        return any(part.needs_theta for part in _parts(self))

    def check_posterior(self, posterior: Posterior, x: Tensor) -> None:
        """Raise a `ConfigError` where an objective does not fit this kind of posterior, or a batch
        of the shape of `x (B, Dx)`."""
        for part in _parts(self):
            part.check_posterior(posterior, x)

    def load_sources(self, load: Callable[[str], Posterior]) -> None:
        """Let attacks that search on another posterior load it.

        Args:
            load: Maps the id or folder of a run to its posterior.
        """
        for part in _parts(self):
            if isinstance(part, Attack):
                part.load_sources(load)

    @abstractmethod
    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Search for perturbed observations.

        Args:
            posterior: What is attacked: an estimator or any map from x to a distribution.
            x: Clean observations of shape `(B, Dx)`.
            theta: The parameters that generated x, shape `(B, D)`, where the objective needs them.
            ball: Allowed perturbations, and the box that x~ must stay in.
            generator: Source of randomness.
        """


class Noise(Attack):
    """Baseline: one uniform draw from the ball."""

    name = "noise"

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Draw once."""
        x = x.detach()
        return Found(ball.feasible(x, x + self.draw(x, ball, generator)))

    def draw(self, x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        """Return a perturbation of each row of `x (B, Dx)`."""
        return ball.sample(x, generator)


class SurfaceNoise(Noise):
    """Baseline: one draw from the surface of the ball, random signs of full size in L_inf."""

    name = "surface_noise"

    @override
    def draw(self, x: Tensor, ball: Ball, generator: Generator) -> Tensor:
        return ball.surface(x, generator)


def _parts(attack: Attack) -> Iterator[Attack | Objective]:
    """Yield the attacks and objectives that an attack is made of, one level down."""
    for value in vars(attack).values():
        inside = [*value.values()] if isinstance(value, Mapping) else value
        for part in inside if isinstance(inside, list | tuple) else [inside]:
            if isinstance(part, Attack | Objective):
                yield part


@torch.no_grad()
def best_of(
    objective: Objective,
    posterior: Posterior,
    x: Tensor,
    theta: Tensor | None,
    candidates: Sequence[Tensor],
    generator: Generator,
) -> Tensor:
    """Return the best of several x~ for each observation, the first of equals.

    They are judged with random numbers of their own: the ones that a candidate was found with are
    those that it fits best.

    Args:
        objective: What to compare.
        posterior: What is attacked.
        x: Clean observations of shape `(B, Dx)`.
        theta: The parameters that generated x, where the objective needs them.
        candidates: Each of shape `(B, Dx)`.
        generator: Source of randomness.
    """
    judge = objective(posterior, x, theta, child(generator))
    best, best_value = candidates[0], comparable(judge(candidates[0]))
    for candidate in candidates[1:]:
        value = comparable(judge(candidate))
        better = value > best_value
        best = torch.where(better.unsqueeze(-1), candidate, best)
        best_value = torch.where(better, value, best_value)
    return best


def comparable(value: Tensor) -> Tensor:
    """Values that are not finite count as worst: they are numerical accidents, not successes."""
    return torch.where(value.isfinite(), value, -torch.inf)


@contextmanager
def frozen(posterior: Posterior) -> Iterator[None]:
    """Exclude the network's parameters from differentiation, and restore them afterwards.

    An attack needs gradients with respect to x only: this saves their cost and guarantees that
    nothing leaks into `.grad`.
    """
    parameters = list(posterior.parameters()) if isinstance(posterior, nn.Module) else []
    trainable = [p for p in parameters if p.requires_grad]
    for p in trainable:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in trainable:
            p.requires_grad_(True)


def blindness(share: float | Tensor) -> str:
    """Return a warning where more than 5 % of the gradient steps had no gradient, else nothing.

    Args:
        share: See `Found.zero_gradients`; of all observations together.
    """
    if float(share) <= BLIND:
        return ""
    return (
        f"attack saw no gradient in {100 * float(share):.3g} % of its steps: the result is a lower "
        "bound; try attack=noise or a black-box attack"
    )


def settings(attack: Attack) -> str:
    """Return the constructor arguments of an attack that differ from their defaults, as in
    `steps=20 objective.num_samples=5 attacks=[noise,pgd(steps=20)]`. The objective of the attack
    itself is not named: tables have a column for it.

    Raises:
        ConfigError: The attack, or a part of it, does not keep an argument as an attribute.
    """
    parts = []
    for name, value in _changed(attack):
        if isinstance(value, Objective) and name == "objective":
            parts += [f"objective.{key}={_written(part)}" for key, part in _changed(value)]
        else:
            parts.append(f"{name}={_written(value)}")
    return " ".join(parts)


def _changed(component: Component) -> Iterator[tuple[str, Any]]:
    """Yield the arguments that differ from their defaults."""
    for name, parameter in inspect.signature(type(component)).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        if not hasattr(component, name):
            kind = "attack" if isinstance(component, Attack) else "part of an attack"
            raise ConfigError(
                f"{kind} {type(component).__name__} must keep its argument {name!r} as an "
                "attribute of this name, which tables show."
            )
        value, default = getattr(component, name), parameter.default
        if value != default and _written(value) != _written(default):
            yield name, value


def _written(value: Any) -> str:
    """Return a value as text, components by name."""
    if isinstance(value, Component):
        inside = ",".join(f"{key}={_written(part)}" for key, part in _changed(value))
        return f"{value.name}({inside})" if inside else value.name
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_written(part)}' for key, part in value.items())}}}"
    return str(value)
