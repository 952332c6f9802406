"""The map from R^D onto the support of the prior."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

from robust_npe.estimators.standardize import Standardize
from robust_npe.tasks.supports import vector_support

__all__ = ["Bijection", "Labels", "map_onto"]

LABELS = type(constraints.integer_interval(0, 1))


class Bijection(nn.Module):
    """theta = f(mean + std z), from R^D onto the support of the prior.

    Args:
        dim_theta: Number of parameters D.
        support: Support of the prior over theta, see `robust_npe.tasks.supports`.

    Raises:
        ConfigError: Parameters with this support cannot be estimated.
    """

    def __init__(self, dim_theta: int, support: Constraint) -> None:
        super().__init__()
        self.support = vector_support(support, dim_theta, "the prior")
        self.unbounded = _is_unbounded(self.support)
        self.standardize = Standardize(dim_theta)
        self._to_support = biject_to(self.support)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bijection:
        """Bounds of the support follow the module to another device or type."""
        super()._apply(fn, recurse)
        self.support = _converted(self.support, fn)
        self._to_support = biject_to(self.support)
        return self

    @property
    def dtype(self) -> torch.dtype:
        """Type of theta and z."""
        return self.standardize.mean.dtype

    def fit(self, theta: Tensor) -> Tensor:
        """Fit mean and std to parameters `(N, D)`, so that z has mean 0 and variance 1; tell which
        of them hardly vary, bool `(D,)`."""
        return self.standardize.fit(self._to_support.inv(theta))

    def is_outside(self, theta: Tensor) -> Tensor:
        """Tell which parameters of `theta (*, D)` are outside of the support, bool `(*, D)`."""
        return ~_of_each(self.support).check(theta)

    def forward(self, z: Tensor) -> Tensor:
        """Map `z (*, D)` to theta."""
        return self._to_support(self.standardize.mean + self.standardize.std * z)

    def inverse_and_log_det(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Map `theta (*, D)` to z, with log |det dz/dtheta| of shape `(*,)`.

        Values outside of the support give an arbitrary result.
        """
        if self.unbounded:
            log_det = -self.standardize.std.log().sum()
            return self.standardize(theta), log_det.expand(theta.shape[:-1])
        u = self._to_support.inv(theta)
        log_det = -self._to_support.log_abs_det_jacobian(u, theta)
        if log_det.ndim == theta.ndim:  # identity transforms do not sum over the event
            log_det = log_det.sum(-1)
        return self.standardize(u), log_det - self.standardize.std.log().sum()


def _converted(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """Return a constraint, or what it consists of, with bounds that went through a conversion."""
    if isinstance(value, Tensor):
        return fn(value)
    if isinstance(value, list):
        return [_converted(part, fn) for part in value]
    if not isinstance(value, Constraint):
        return value
    converted = copy.copy(value)
    for name, part in vars(value).items():
        setattr(converted, name, _converted(part, fn))
    return converted


def _of_each(support: Constraint) -> Constraint:
    """Return the constraint of each parameter by itself; see `vector_support`."""
    return cast(Constraint, cast(Any, support).base_constraint)


def _is_unbounded(support: Constraint) -> bool:
    """Tell whether the support is all of R^D."""
    return type(_of_each(support)) is type(constraints.real)


class Labels(Bijection):
    """In the place of a bijection where theta is a label: theta itself, without a density to move.

    Args:
        support: The labels 0, ..., K - 1, of event shape `(1,)`.

    Attributes:
        num_classes: K.
    """

    def __init__(self, support: Constraint) -> None:
        nn.Module.__init__(self)
        self.support = support
        self.unbounded = True
        self.num_classes = int(_of_each(support).upper_bound) + 1  # type: ignore[attr-defined]
        self.standardize = Standardize(1)  # tells type and device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Labels:
        """The support has no bounds that would have to follow."""
        nn.Module._apply(self, fn, recurse)
        return self

    def fit(self, theta: Tensor) -> Tensor:
        """Leave labels as they are."""
        return torch.zeros(1, dtype=torch.bool, device=theta.device)

    def forward(self, z: Tensor) -> Tensor:
        """Return the label."""
        return z

    def inverse_and_log_det(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the label, and 0 of shape `(*,)`."""
        return theta, theta.new_zeros(theta.shape[:-1])


def map_onto(support: Constraint, dim_theta: int) -> Bijection:
    """Return the `Bijection` onto a support, or `Labels` for that of one label; arguments and
    errors as for `Bijection`."""
    discrete = isinstance(getattr(support, "base_constraint", None), LABELS)
    return Labels(support) if discrete and dim_theta == 1 else Bijection(dim_theta, support)
