"""How finely an audit measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robust_npe.checks import require

__all__ = ["AuditSettings"]


@dataclass
class AuditSettings:
    """How finely an audit measures, and on how many observations.

    Attributes:
        num_attacked: Observations that are attacked, from the first.
        num_minimal: How many of them the smallest radius is searched for.
        num_pictured: How many of them the report shows in pictures: those that move most.
        num_samples: Posterior samples behind moments, quantiles and divergences.
        num_scores: Samples of the Fisher information, at least 4.
        num_simulations: Simulations that "typical" is learned from, at most.
        num_held_out: Others that quality and p-values are measured on, at most.
        num_predictive: Simulations behind each posterior predictive; 0 for none.
        flow: Whether to train the density of x, which takes most of the time for many features.
        batch_size: Observations that are processed at once.
    """

    version: ClassVar[int] = 1

    num_attacked: int = 200
    num_minimal: int = 16
    num_pictured: int = 2
    num_samples: int = 1000
    num_scores: int = 256
    num_simulations: int = 5000
    num_held_out: int = 2000
    num_predictive: int = 100
    flow: bool = True
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check the ranges."""
        least = {"num_pictured": 0, "num_predictive": 0, "num_minimal": 0}
        least |= {"num_samples": 20, "num_scores": 4}
        for name in (n for n in self.__dataclass_fields__ if n != "flow"):
            value, low = getattr(self, name), least.get(name, 1)
            require(value >= low, f"audit.{name}", value, f"at least {low}")
