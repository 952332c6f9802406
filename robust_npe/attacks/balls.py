"""Balls of allowed perturbations: how to sample, project, and step in L1, L2 and Linf."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor

from robust_npe.checks import require

__all__ = ["L1", "L2", "Ball", "Domain", "Linf", "make_ball"]

FILLING = 12  # binary digits before and after the point of a factor

Domain = tuple[Tensor, Tensor]
"""Smallest and largest allowed x, each of shape `(Dx,)`."""


class Ball(ABC):
    """All delta with norm(delta / scale) <= radius, and where x + delta may lie.

    Subclasses implement the unit ball in scaled coordinates.

    Args:
        radius: In units of x (or of `scale` where that is given), not negative: one number, or one
            for each row, shape `(B,)`.
        scale: Optional size of one unit for each feature, shape `(Dx,)`, positive.
        domain: Box that x~ must stay in, None for no limit. Where x itself lies outside of the
            box, the box is widened to contain it.
    """

    def __init__(
        self, radius: float | Tensor, scale: Tensor | None = None, domain: Domain | None = None
    ) -> None:
        radii = torch.as_tensor(radius)
        fits = radii.ndim <= 1 and bool(((radii >= 0) & (radii < torch.inf)).all())
        expected = "a finite number that is not negative, or one for each row"
        require(fits, "radius", radii.tolist(), expected)
        self.radius: float | Tensor = radii if radii.ndim else float(radius)
        self.scale = scale
        self.domain = domain

    def sample(self, like: Tensor, generator: Generator) -> Tensor:
        """Draw one perturbation per row of `like (B, Dx)`, uniform in the ball."""
        return self._sample_unit(like, generator) * self._size(like)

    def surface(self, like: Tensor, generator: Generator) -> Tensor:
        """Draw one perturbation per row of `like (B, Dx)` from the ball's surface: uniform in L2, a
        corner in Linf, the same change of few features in L1."""
        return self.steepest_step(gaussian(like, generator) / self._unit(like))

    def filled(self, x: Tensor, delta: Tensor) -> Tensor:
        """Return x~ as far from x as `delta (B, Dx)` is long, in its direction, within the domain:
        what clipping takes from some features goes to the others, as far as they have room."""
        if self.domain is None:
            return x + delta
        size, factor = self.norm(delta), torch.ones(len(x), 1).to(x)
        for power in range(FILLING, -FILLING, -1):  # digits of the factor, largest first
            longer = factor + 2.0**power
            fits = self.norm(self._clipped(x, x + longer * delta) - x) <= size
            factor = torch.where(fits.unsqueeze(-1), longer, factor)
        return self._clipped(x, x + factor * delta)

    def project(self, delta: Tensor) -> Tensor:
        """Return the points of the ball nearest to `delta (B, Dx)`, in scaled coordinates."""
        size = self._size(delta)
        divisor = torch.where(size > 0, size, 1.0) if isinstance(size, Tensor) else size or 1.0
        return self._project_unit(delta / divisor) * size

    def steepest_step(self, gradient: Tensor) -> Tensor:
        """Return the perturbation on the ball's surface along which a linear function with this
        gradient `(B, Dx)` rises most; zero where the gradient is zero or not finite."""
        finite = gradient.isfinite().all(-1, keepdim=True)
        gradient = torch.where(finite, gradient, 0.0)
        return self._steepest_unit(gradient * self._unit(gradient)) * self._size(gradient)

    def norm(self, delta: Tensor) -> Tensor:
        """Return the norm of `delta (B, Dx)` in scaled coordinates, shape `(B,)`."""
        return self._norm(delta / self._unit(delta))

    def feasible(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Return x~ moved into ball and domain. The domain contains x, so clipping to it can only
        shorten the perturbation and never leaves the ball."""
        return self._clipped(x, x + self.project(x_adv - x))

    def _clipped(self, x: Tensor, x_adv: Tensor) -> Tensor:
        if self.domain is None:
            return x_adv
        low, high = (bound.to(x) for bound in self.domain)
        return x_adv.clamp(torch.minimum(low, x), torch.maximum(high, x))

    def rows(self, index: Tensor) -> Ball:
        """Return the ball of the rows that are counted in `index (N,)`, which may repeat them."""
        radius = self.radius[index] if isinstance(self.radius, Tensor) else self.radius
        return type(self)(radius, self.scale, self.domain)

    def _unit(self, like: Tensor) -> Tensor | float:
        return 1.0 if self.scale is None else self.scale.to(like)

    def _size(self, like: Tensor) -> Tensor | float:
        """Half-widths of the ball, a number or broadcast over `(B, Dx)`."""
        radius = self.radius
        if isinstance(radius, Tensor):
            fits = radius.shape == like.shape[:-1]
            require(
                fits, "radius", radius.tolist(), f"one number, or {len(like)}: one for each row"
            )
            radius = radius.to(like).unsqueeze(-1)
        return radius if self.scale is None else radius * self._unit(like)

    @abstractmethod
    def _sample_unit(self, like: Tensor, generator: Generator) -> Tensor: ...

    @abstractmethod
    def _project_unit(self, delta: Tensor) -> Tensor: ...

    @abstractmethod
    def _steepest_unit(self, gradient: Tensor) -> Tensor: ...

    @abstractmethod
    def _norm(self, delta: Tensor) -> Tensor: ...


def gaussian(like: Tensor, generator: Generator) -> Tensor:
    """Draw standard normal noise of the shape, type and device of `like`."""
    noise = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device)
    return noise.to(like.device)


def _rand(shape: torch.Size, like: Tensor, generator: Generator) -> Tensor:
    noise = torch.rand(shape, generator=generator, dtype=like.dtype, device=generator.device)
    return noise.to(like.device)


class L2(Ball):
    """Euclidean ball."""

    def _sample_unit(self, like: Tensor, generator: Generator) -> Tensor:
        direction = self._steepest_unit(gaussian(like, generator))
        return direction * _rand(like[..., :1].shape, like, generator) ** (1 / like.shape[-1])

    def _project_unit(self, delta: Tensor) -> Tensor:
        return delta / self._norm(delta).unsqueeze(-1).clamp(min=1.0)

    def _steepest_unit(self, gradient: Tensor) -> Tensor:
        # dividing by the largest entry first keeps tiny gradients from underflowing when squared
        largest = gradient.abs().amax(-1, keepdim=True)
        scaled = gradient / torch.where(largest > 0, largest, 1.0)
        return scaled / self._norm(scaled).unsqueeze(-1).clamp(min=1e-12)

    def _norm(self, delta: Tensor) -> Tensor:
        return torch.linalg.vector_norm(delta, dim=-1)


class Linf(Ball):
    """Box of half-width `radius`."""

    def _sample_unit(self, like: Tensor, generator: Generator) -> Tensor:
        return 2 * _rand(like.shape, like, generator) - 1

    def _project_unit(self, delta: Tensor) -> Tensor:
        return delta.clamp(-1, 1)

    def _steepest_unit(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def _norm(self, delta: Tensor) -> Tensor:
        return delta.abs().amax(-1)


class L1(Ball):
    """Cross-polytope: sum of absolute changes at most `radius`.

    The steepest step spreads over the 5 % of the features with the largest gradient (at least
    one), since moving one feature at a time needs as many steps as there are features.

    References:
        Tramer & Boneh (2019), "Adversarial training and robustness for multiple perturbations",
        https://arxiv.org/abs/1904.13000
        Duchi et al. (2008), "Efficient projections onto the l1-ball" (the projection).
    """

    density = 0.05

    def _sample_unit(self, like: Tensor, generator: Generator) -> Tensor:
        # D + 1 exponentials normalised by their sum are uniform on the simplex
        shape = torch.Size((*like.shape[:-1], like.shape[-1] + 1))
        parts = -torch.log1p(-_rand(shape, like, generator))
        signs = _rand(like.shape, like, generator).sub(0.5).sign()
        return signs * parts[..., :-1] / parts.sum(-1, keepdim=True)

    def _project_unit(self, delta: Tensor) -> Tensor:
        magnitude = delta.abs()
        ordered = magnitude.sort(dim=-1, descending=True).values
        count = torch.arange(1, delta.shape[-1] + 1, device=delta.device, dtype=delta.dtype)
        threshold = (ordered.cumsum(-1) - 1) / count
        active = (ordered > threshold).sum(-1, keepdim=True).clamp(min=1)
        cut = threshold.gather(-1, active - 1).clamp(min=0)
        return delta.sign() * (magnitude - cut).clamp(min=0)

    def _steepest_unit(self, gradient: Tensor) -> Tensor:
        k = max(1, round(self.density * gradient.shape[-1]))
        index = gradient.abs().topk(k, dim=-1).indices
        return torch.zeros_like(gradient).scatter(-1, index, gradient.gather(-1, index).sign() / k)

    def _norm(self, delta: Tensor) -> Tensor:
        return delta.abs().sum(-1)


_BALLS: dict[str, type[Ball]] = {"l1": L1, "l2": L2, "linf": Linf}


def make_ball(
    norm: str,
    radius: float | Tensor,
    scale: Tensor | None = None,
    domain: Domain | None = None,
) -> Ball:
    """Return the ball of a norm given by name: `l1`, `l2` or `linf`; see `Ball`."""
    require(norm in _BALLS, "norm", norm, f"one of {', '.join(_BALLS)}")
    return _BALLS[norm](radius, scale, domain)
