"""From relative settings to absolute ones: units of epsilon, and the box x~ must stay in."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robust_npe.attacks.auto_unit import FRACTIONS, MULTIPLES, AutoUnit, auto_unit
from robust_npe.attacks.balls import Ball, Domain, make_ball
from robust_npe.checks import ConfigError, require
from robust_npe.tasks.base import Task

__all__ = ["DOMAINS", "UNITS", "ThreatModel", "data_domain", "dominant_feature", "std_unit"]

log = logging.getLogger(__name__)

UNITS = ("std", "absolute", "noise", "feature", "auto")
DOMAINS = ("data", "task", "none")
MANY_STDS = 1e4  # of a feature in one unit of epsilon, above which people are told
DOMINANT = 0.9  # share from which on one feature alone sets the size of a ball
TINY = torch.finfo(torch.float32).tiny


def std_unit(x: Tensor) -> float:
    """Mean over observations of the standard deviation over the features of one observation.

    The unit of the published radii. x has shape `(N, Dx)`.

    Raises:
        ConfigError: There is one feature only, which has no spread over features.
    """
    _require_features(x.shape[1])
    # in parts: a copy of all data in float64 may not fit into memory
    stds = [part.double().std(dim=1) for part in x.split(65_536)]
    return float(torch.cat(stds).mean())


def dominant_feature(x: Tensor) -> tuple[int, float]:
    """Return which feature of `x (N, Dx)` weighs most in the spread over features, and its share.

    The share is that in the sum over features of E[(x_j - m)^2], where m is the median of the
    features' means: a feature stands out by its own spread or by where it lies.
    """
    mean = x.mean(0).double()
    moment = x.std(0).double().square() + (mean - mean.median()).square()
    share, index = (moment / moment.sum()).max(0)
    return int(index), float(share)


def data_domain(x: Tensor) -> Domain:
    """Box of all observations `(N, Dx)`: one number below and one above, as published."""
    return x.amin().expand(x.shape[-1]), x.amax().expand(x.shape[-1])


def _require_features(dim_x: int) -> None:
    if dim_x < 2:
        raise ConfigError(
            "epsilon_unit=std is a spread over features and needs at least two of them; x has "
            f"{dim_x}. Use epsilon_unit=feature or absolute."
        )


@dataclass(frozen=True)
class ThreatModel:
    """What the adversary may do.

    Attributes:
        norm: `l1`, `l2` or `linf`.
        epsilon_unit: What epsilon=1 means. `std`: the mean standard deviation over features
            (published); `absolute`: one unit of x; `noise`: the expected L2 norm of the
            observation noise; `feature`: each feature in units of its own standard deviation over
            the observations (a constant one stays as it is); `auto`: the distance of two
            simulations, see `robust_npe.attacks.auto_unit`.
        domain: Where x~ must stay. `data`: between the smallest and the largest value in the test
            set (published); `task`: where x is physically possible; `none`.
    """

    version: ClassVar[int] = 1

    norm: str = "l2"
    epsilon_unit: str = "std"
    domain: str = "data"

    def __post_init__(self) -> None:
        """Check the settings."""
        make_ball(self.norm, 0.0)
        require(self.epsilon_unit in UNITS, "epsilon_unit", self.epsilon_unit, f"one of {UNITS}")
        require(self.domain in DOMAINS, "domain", self.domain, f"one of {DOMAINS}")

    def check(self, task: Task | None, num_observations: int | None = None) -> None:
        """Raise a `ConfigError` where task or number of observations is not what is needed."""
        if self.epsilon_unit == "std" and task is not None:
            _require_features(task.dim_x)
        if self.epsilon_unit == "noise" and (task is None or task.noise_norm is None):
            raise ConfigError(
                "epsilon_unit=noise needs a task with known observation noise; "
                f"{'there is no task' if task is None else f'{task.name} has none'}. "
                "Use epsilon_unit=std, absolute or feature."
            )
        if self.epsilon_unit == "feature" and num_observations is not None and num_observations < 2:
            raise ConfigError(
                "epsilon_unit=feature is a spread over observations and needs at least two of "
                f"them, not {num_observations}. Give more (evaluation.num_test of a run, "
                "simulations of an audit), or use epsilon_unit=std or absolute."
            )

    def warn(self, x: Tensor) -> None:
        """Warn where features of the test set `x (N, Dx)` set a radius too large for others."""
        if self.epsilon_unit != "std" or min(x.shape) < 2:
            return
        feature, share = dominant_feature(x)
        if share > DOMINANT:
            log.warning(
                "epsilon_unit=std: feature %d carries %.1f %% of the spread over features, so the "
                "radius is its size and may be huge for the others: use epsilon_unit=feature",
                feature,
                100 * share,
            )
            return
        std = x.double().std(0)
        varying = std[std > 0]
        if len(varying) and (size := self.unit(None, x) / float(varying.min())) > MANY_STDS:
            log.warning(
                "epsilon_unit=std: epsilon=1 is %.2g standard deviations of the feature that "
                "varies least, which a perturbation may change beyond recognition: use "
                "epsilon_unit=feature",
                size,
            )

    def radii(self, task: Task) -> tuple[float, ...]:
        """Return the radii of `epsilon=null`, which takes `epsilon_unit=auto`; else none."""
        if self.epsilon_unit != "auto":
            return ()
        return FRACTIONS if task.knows("simulate") else MULTIPLES

    def ball(
        self,
        epsilon: float | Sequence[float] | Tensor,
        task: Task | None,
        x: Tensor,
        auto: AutoUnit | None = None,
    ) -> Ball:
        """Return the allowed perturbations.

        Args:
            epsilon: Radius, or one for each observation that will be attacked, `(B,)`.
            task: What knows its noise and what is possible; None where neither is asked for.
            x: The test set, `(N, Dx)`, from which units and range are taken.
            auto: What `epsilon_unit=auto` is; None for the distance between neighbours in x.
        """
        expected = "a number that is not negative, or one for each observation"
        try:
            radii = torch.as_tensor(epsilon)
        except (TypeError, ValueError, RuntimeError):
            radii = torch.tensor(-1.0)
        fits = radii.ndim <= 1 and bool((radii >= 0).all())
        require(fits, "epsilon", getattr(epsilon, "tolist", lambda: epsilon)(), expected)
        epsilon = radii if radii.ndim else float(epsilon)  # type: ignore[arg-type]
        domain = self.box(task, x)
        if self.epsilon_unit == "feature":
            self.check(task, len(x))
            return make_ball(self.norm, epsilon, x.std(0).clamp(min=TINY), domain)
        if self.epsilon_unit == "auto":
            auto = auto or auto_unit(self.norm, x)
            return make_ball(self.norm, epsilon * auto.length, auto.scale, domain)
        return make_ball(self.norm, epsilon * self.unit(task, x), None, domain)

    def unit(self, task: Task | None, x: Tensor) -> float:
        """Return the length of epsilon = 1 in units of x; nan where it differs by feature."""
        self.check(task)
        if self.epsilon_unit == "noise" and task is not None:
            return float(task.noise_norm or 0.0)
        if self.epsilon_unit == "std":
            return std_unit(x)
        return 1.0 if self.epsilon_unit == "absolute" else float("nan")

    def box(self, task: Task | None, x: Tensor) -> Domain | None:
        """Return the box that x~ must stay in, from the test set `x (N, Dx)` or the task."""
        if self.domain == "data":
            return data_domain(x)
        if self.domain == "task" and task is not None and task.domain is not None:
            low, high = task.domain
            return low.to(x), high.to(x)
        return None
