"""A radius without an idea of one: how far apart simulations are that nobody would tell apart.

The unit of `epsilon_unit=auto` is a distance; in it, each feature is divided by its own scale.

- **replicates**, where there is a simulator: the median distance between two simulations at the
  same theta; each feature in units of its replicate scatter. A perturbation of half of that turns
  one observation into what might well have been observed instead.
- **neighbours**, where there are simulations only: the median distance of an observation to the
  nearest other one; each feature in units of its standard deviation over the observations. What is
  nearer than other observations are is small; how much more is still small cannot be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robust_npe.checks import ConfigError

__all__ = ["FRACTIONS", "MULTIPLES", "REPLICATES", "AutoUnit", "auto_unit"]

FRACTIONS = (0.25, 0.5, 1.0)  # of the distance between replicates
MULTIPLES = (1.0, 2.0, 4.0)  # of the distance between neighbours, the lower end
REPLICATES = 256  # parameters with two simulations
FEWEST = 10  # observations or pairs of replicates
NEIGHBOURS = 2_000  # observations among which neighbours are looked for
ONE_SIGMA = 0.6827  # mass of a normal distribution within one standard deviation
ORDERS = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}
LISTED = 5  # features that are told one by one
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class AutoUnit:
    """What epsilon = 1 is.

    Attributes:
        rule: `replicates` or `neighbours`.
        scale: Unit of each feature in units of x, `(Dx,)`.
        length: The distance, in these units.
    """

    rule: str
    scale: Tensor
    length: float

    def text(self, radii: Sequence[float], x_names: Sequence[str]) -> str:
        """Say which rule was used, and what the radii are in units of x."""
        rules = {
            "replicates": "the median distance of two simulations at the same theta",
            "neighbours": "the median distance of nearest neighbours, a lower end",
        }
        parts = [f"epsilon={epsilon:g}: {self.moves(epsilon, x_names)}" for epsilon in radii]
        return (
            f"epsilon_unit=auto is {rules[self.rule]}. A single feature moves by at most: "
            + "; ".join(parts)
        )

    def moves(self, epsilon: float, x_names: Sequence[str]) -> str:
        """Say how far a single feature moves at most, in units of x."""
        moves = (epsilon * self.length * self.scale.double()).tolist()
        named = list(zip(moves, x_names, strict=True))
        if len(named) <= LISTED:
            return ", ".join(f"{name} {move:.3g}" for move, name in named)
        (least, first), (most, last) = min(named), max(named)
        return f"between {least:.3g} ({first}) and {most:.3g} ({last})"


def auto_unit(norm: str, x: Tensor, replicates: Tensor | None = None) -> AutoUnit:
    """Return the unit of a radius that follows from simulations.

    Args:
        norm: `l1`, `l2` or `linf`, in which distances are measured.
        x: Observations `(N, Dx)`.
        replicates: Second simulations at the parameters of the first rows of x, `(M, Dx)`; rows
            that are not finite are left out. None where there is no simulator.

    Raises:
        ConfigError: Nothing follows from so few of them, or all are equal.
    """
    if replicates is None:
        return _neighbours(norm, x)
    difference = replicates.to(x) - x[: len(replicates)]
    difference = difference[difference.isfinite().all(1)].double()
    _require_enough(len(difference), "pairs of simulations at the same theta")
    scale = _scatter(difference)
    length = _size(difference / scale, norm).quantile(0.5)
    _require_spread(float(length), "two simulations at the same theta are equal")
    return AutoUnit("replicates", scale.float(), float(length))


def _neighbours(norm: str, x: Tensor) -> AutoUnit:
    x = x[:NEIGHBOURS].double()
    _require_enough(len(x), "observations")
    scale = x.std(0).clamp(min=TINY)
    z = x / scale
    distance = torch.cdist(z, z, p=ORDERS[norm]).fill_diagonal_(torch.inf)
    length = float(distance.amin(1).quantile(0.5))
    _require_spread(length, "most observations have an equal one")
    return AutoUnit("neighbours", scale.float(), length)


def _scatter(difference: Tensor) -> Tensor:
    """Return the standard deviation of each feature at fixed theta, `(Dx,)`, from differences of
    two simulations `(M, Dx)`: by the quantile that is one of a normal distribution, whatever the
    tails; by the root mean square where most differences are zero."""
    quantile = difference.abs().quantile(ONE_SIGMA, dim=0)
    rms = difference.square().mean(0).sqrt()
    return (torch.where(quantile > 0, quantile, rms) / 2**0.5).clamp(min=TINY)


def _size(z: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm(z, ord=ORDERS[norm], dim=1)


def _require_enough(num: int, what: str) -> None:
    if num < FEWEST:
        raise ConfigError(
            f"epsilon_unit=auto needs at least {FEWEST} {what}, there are {num}: say what a small "
            "change is, as in epsilon=0.1 epsilon_unit=absolute for units of x."
        )


def _require_spread(length: float, why: str) -> None:
    if not 0 < length < torch.inf:
        raise ConfigError(
            f"epsilon_unit=auto finds no distance, as {why}: say what a small change is, as in "
            "epsilon=0.1 epsilon_unit=feature for standard deviations of each feature."
        )
