"""Posteriors that can only be sampled and evaluated, one observation at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Size, Tensor
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from robust_npe.random import every_draw_from

__all__ = ["BlackBox", "BlackBoxPosterior"]

# what sbi's samplers must not do: reject until enough samples are inside of the prior, which takes
# for ever under attack; correct the density for what was rejected; draw progress bars
_QUIET = {
    "reject_outside_prior": False,
    "norm_posterior": False,
    "show_progress_bars": False,
}


class BlackBoxPosterior:
    """An object with `sample(shape, x=...)` and `log_prob(theta, x=...)` as a posterior.

    Its densities have no gradient with respect to x: attacks that need one find nothing, and say
    so; those that do not, such as `rn.attacks.RandomSearch` and `rn.attacks.NES`, work.

    Args:
        model: The object; `x` is `(1, Dx)`, `theta` is `(S, D)`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._event_shape: Size | None = None

    def __call__(self, x: Tensor) -> BlackBox:
        """Return q(.|x) for `x (B, Dx)`."""
        if self._event_shape is None:
            with every_draw_from(Generator().manual_seed(0)):
                self._event_shape = _sample(self.model, Size([1]), x[:1]).shape[1:]
        return BlackBox(self.model, x, self._event_shape)


class BlackBox(Distribution):
    """The distributions of a black box at several x.

    Args:
        model: See `BlackBoxPosterior`.
        x: Observations `(B, Dx)`.
        event_shape: Shape of one theta.
    """

    arg_constraints: dict[str, Constraint] = {}  # noqa: RUF012 (torch's interface)
    bounds_itself = True  # see `posterior.log_prob`
    has_rsample = False

    def __init__(self, model: Any, x: Tensor, event_shape: Size) -> None:
        self.model = model
        self.x = x.detach()
        super().__init__(x.shape[:1], event_shape, validate_args=False)

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw samples of shape `(*sample_shape, B, *event_shape)`, by the global generators."""
        shape = Size(sample_shape)
        seed = int(torch.randint(2**62, ()))  # replays with the global stream, numpy's part too
        with every_draw_from(Generator().manual_seed(seed)):
            found = [self._possible(_sample(self.model, shape, x[None]), x) for x in self.x]
        return torch.stack(found, 1).reshape(*shape, *self.batch_shape, *self.event_shape)

    @torch.no_grad()
    def log_prob(self, theta: Tensor) -> Tensor:
        """Return log q(theta) for `theta (*, B, *event_shape)`, shape `(*, B)`."""
        leading = theta.shape[: theta.ndim - len(self.event_shape)]
        events = theta.detach().reshape(-1, *self.batch_shape, *self.event_shape)
        quiet = _known(self.model.log_prob)
        values = [
            self.model.log_prob(events[:, i], x=x[None], **quiet) for i, x in enumerate(self.x)
        ]
        return torch.stack([v.reshape(-1) for v in values], 1).reshape(leading)

    def _possible(self, theta: Tensor, x: Tensor) -> Tensor:
        """Replace samples `(S, *event_shape)` of density zero, which were not rejected, by others
        among them; all of them are left where there are no others."""
        if "reject_outside_prior" not in _known(self.model.sample):
            return theta
        value = self.model.log_prob(theta, x=x[None], **_known(self.model.log_prob))
        inside = theta[value.reshape(-1) > -torch.inf]
        if len(inside) in (0, len(theta)):
            return theta
        more = torch.randint(len(inside), (len(theta) - len(inside),))
        return torch.cat((inside, inside[more]))[torch.randperm(len(theta))]


def _sample(model: Any, shape: Size, x: Tensor) -> Tensor:
    """Draw from the posterior at one x: `(S, *event_shape)`, whatever the sample shape."""
    return model.sample(Size([shape.numel()]), x=x, **_known(model.sample))


def _known(function: Callable[..., Any]) -> dict[str, bool]:
    known = inspect.signature(function).parameters
    return {name: value for name, value in _QUIET.items() if name in known}
