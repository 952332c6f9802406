"""Is what an attack found what there is? Measurements that tell when it is not.

An attack gives a lower bound. It is far too low where gradients do not lead to what the posterior
does: behind rounding, saturation, steps, or noise of the posterior's own. Each function here
measures one sign of that; `robust_npe.metrics.Soundness` says which values are suspicious.

References:
    Athalye, Carlini & Wagner (2018), "Obfuscated gradients give a false sense of security",
    https://arxiv.org/abs/1802.00420
    Carlini et al. (2019), "On evaluating adversarial robustness", https://arxiv.org/abs/1902.06705
    Croce & Hein (2020), "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", https://arxiv.org/abs/2003.01690
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack, best_of, comparable, frozen
from robust_npe.attacks.objectives import (
    Climb,
    KLForward,
    Objective,
    Sampled,
    with_samples,
)
from robust_npe.attacks.shifts import CoverageBreaking
from robust_npe.divergences import kl_with_error
from robust_npe.fisher import largest_eigenvector, rayleigh_quotient
from robust_npe.posterior import (
    Posterior,
    differentiated_scores,
    gradient,
    log_prob,
    posterior_at,
)
from robust_npe.random import child, draws_from

__all__ = [
    "beats",
    "best_attack",
    "differs",
    "gradient_error",
    "kl_at_zero",
    "quadratic_ratio",
    "unresolved",
]

CHORDS, NODES = 8, 12  # per observation, and gradients along each
FEW_UNITS = 4  # in the last place: with fewer there is no direction to search along
NEGLIGIBLE = 1e-4  # nats: below it rounding errors weigh
BINDINGS, NUM_SAMPLES = 16, 16  # of an objective, for the standard error of a comparison
NUM_SCORES = 128  # half for the direction of the largest eigenvalue, half for its size
QUADRATIC = 30.0  # nats up to which a posterior may be quadratic
NOISY, CERTAIN = 0.25, 0.1  # standard errors of a divergence relative to what it is compared with


@torch.no_grad()
def gradient_error(
    objective: Objective,
    posterior: Posterior,
    x: Tensor,
    theta: Tensor | None,
    ball: Ball,
    generator: Generator,
) -> Tensor | None:
    """Compare the gradient of an objective with steps of finite size, with common random numbers.

    On a chord between two random points of the ball's surface, the gradient integrated along the
    chord (12 Gauss-Legendre nodes) must be the difference of the values at its ends. That holds for
    every smooth function however curved, and fails where it rises in steps that no gradient sees.
    Steps of infinitesimal size would miss those, too.

    Args:
        objective: What the attack climbs.
        posterior: What is attacked.
        x: Clean observations of shape `(B, Dx)`.
        theta: The parameters that generated x, where the objective needs them.
        ball: Allowed perturbations; its radius is a number.
        generator: Source of randomness.

    Returns:
        |difference - integral| relative to the larger one of |difference| and the integral of the
        gradient's absolute value, both summed over 8 random chords for each observation, shape
        `(B,)`. None where gradients are not meant to be those of the values: of coverage, and of
        samples that are not reparameterised.
    """
    x = x.detach().repeat(CHORDS, 1)
    theta = None if theta is None else theta.repeat(CHORDS, *(1 for _ in theta.shape[1:]))
    with frozen(posterior):
        climb = objective(posterior, x, theta, child(generator))
        if not _differentiable(objective, climb, posterior, x):
            return None
        climb = with_samples(climb, 2)  # an identity of any number of samples
        ends = [ball.feasible(x, x + ball.surface(x, generator)) for _ in range(2)]
        difference = climb(ends[1]) - climb(ends[0])
        slopes = _slopes(climb, *ends)
    integral, size = slopes.sum(0), slopes.abs().sum(0)
    missed = (difference - integral).abs().reshape(CHORDS, -1).sum(0)
    largest = torch.maximum(difference.abs(), size).reshape(CHORDS, -1).sum(0)
    return (missed / largest.clamp(min=NEGLIGIBLE)).nan_to_num(1.0, 1.0, 1.0)


def _differentiable(objective: Objective, climb: Climb, posterior: Posterior, x: Tensor) -> bool:
    """Tell whether the gradients of an objective are those of its values."""
    if isinstance(objective, CoverageBreaking):
        return False
    moves = isinstance(climb, Sampled) and not isinstance(objective, KLForward)
    return not moves or posterior_at(posterior, x[:2]).has_rsample


def _slopes(climb: Climb, first: Tensor, last: Tensor) -> Tensor:
    """Return the terms `(NODES, B)` whose sum is the integral of the gradient along segments."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    chord, slopes = last - first, []
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        at = (first + float(node) * chord).requires_grad_(True)
        with torch.enable_grad():
            slope = gradient(climb(at), at)
        slopes.append(float(weight) * (slope * chord).sum(-1))
    return torch.stack(slopes)


@torch.no_grad()
def differs(posterior: Posterior, x: Tensor, generator: Generator) -> Tensor:
    """Tell where two calls of the posterior at `x (B, Dx)` give the same theta different densities,
    bool `(B,)`."""
    first, second = posterior_at(posterior, x), posterior_at(posterior, x)
    with draws_from(generator):
        theta = first.sample((4,))
    values = log_prob(first, theta), log_prob(second, theta)
    return ~torch.isclose(*values, rtol=1e-4, atol=1e-3, equal_nan=True).all(0)


@torch.no_grad()
def unresolved(x: Tensor, ball: Ball) -> Tensor:
    """Return which rows of `x (B, Dx)` have no feature that the ball lets move by more than 4 units
    in the last place, `(B,)`: x~ is x there, or one of a few numbers beside it."""
    magnitude = x.abs()
    spacing = torch.nextafter(magnitude, magnitude.new_tensor(torch.inf)) - magnitude
    scale = torch.ones_like(x[0]) if ball.scale is None else ball.scale.to(x)
    radius = torch.as_tensor(ball.radius, dtype=torch.float64, device=x.device).reshape(-1, 1)
    return (radius * scale.double() <= FEW_UNITS * spacing.double()).all(-1)


def kl_at_zero(posterior: Posterior, x: Tensor, num_samples: int, generator: Generator) -> Tensor:
    """Tell where KL(q(.|x) || q(.|x)), from two calls at `x (B, Dx)`, is further from 0 than three
    standard errors and 0.001 nats, bool `(B,)`: there, sampling and density do not belong together,
    or the posterior is random."""
    first, second = posterior_at(posterior, x), posterior_at(posterior, x)
    value, error = kl_with_error(first, second, num_samples, generator)
    return value.abs() > 3 * error.nan_to_num() + 1e-3  # a NaN is no answer, not a wrong one


@torch.no_grad()
def quadratic_ratio(
    posterior: Posterior,
    x: Tensor,
    x_adv: Tensor,
    ball: Ball,
    reverse: bool,
    num_samples: int,
    generator: Generator,
) -> Tensor:
    """Compare an attack in L2 with the largest KL to second order, 1/2 lambda_max |x~ - x|^2, where
    lambda_max is the largest eigenvalue of the Fisher information I_x (in scaled coordinates).

    Args:
        posterior: What was attacked.
        x: Clean observations of shape `(B, Dx)`.
        x_adv: What the attack found.
        ball: Where: in L2.
        reverse: Whether KL(q(.|x~) || q(.|x)) is meant.
        num_samples: Samples of the divergence where it has no closed form.
        generator: Source of randomness.

    Returns:
        KL / (1/2 lambda_max |x~ - x|^2), shape `(B,)`. NaN where that is decided by the
        Monte-Carlo error of KL, and where the denominator is above 30 nats: no posterior is
        quadratic so far out.
    """
    clean, moved = posterior_at(posterior, x), posterior_at(posterior, x_adv)
    pair = (moved, clean) if reverse else (clean, moved)
    kl, error = kl_with_error(*pair, num_samples, generator)
    # not the compiled scores of an estimator, which a machine would first have to compile
    score = differentiated_scores(posterior, x, NUM_SCORES, generator, False)
    score = score if ball.scale is None else score * ball.scale.to(x)
    # the direction and the curvature along it from different samples: few overestimate lambda_max
    along, across = score.nan_to_num(0, 0, 0).chunk(2)
    size = along.abs().amax((0, 2), keepdim=True)  # squares of huge scores overflow
    largest = rayleigh_quotient(across, largest_eigenvector(along / size.clamp(min=1e-30)))
    expected = 0.5 * largest * ball.norm(x_adv - x).square()
    # told by the denominator, which does not depend on luck, or by a KL far above its own noise
    certain = (error < NOISY * expected) | (error < CERTAIN * kl)
    meaningful = certain & (torch.maximum(kl, expected) > NEGLIGIBLE) & (expected < QUADRATIC)
    return torch.where(meaningful, kl / expected, torch.nan)


@torch.no_grad()
def beats(
    objective: Objective,
    posterior: Posterior,
    x: Tensor,
    theta: Tensor | None,
    first: Tensor,
    second: Tensor,
    factor: float,
    generator: Generator,
) -> Tensor:
    """Tell where the value of one x~ is above a multiple of another's by more than two standard
    errors of the comparison, on fresh random numbers, bool `(B,)`.

    Args:
        objective: What is compared.
        posterior: What was attacked.
        x: Clean observations of shape `(B, Dx)`.
        theta: The parameters that generated x, where the objective needs them.
        first: Shape `(B, Dx)`.
        second: What it must beat.
        factor: At least 1; where the second's value v is negative, its multiple is
            v + (factor - 1) |v|.
        generator: Source of randomness.
    """
    margins = []
    for _ in range(BINDINGS):
        climb = with_samples(objective(posterior, x, theta, child(generator)), NUM_SAMPLES)
        value, other = (comparable(climb(x_adv)) for x_adv in (first, second))
        margins.append(value - other - (factor - 1) * other.abs())
    margin = torch.stack(margins)
    return margin.mean(0) > 2 * margin.std(0) / BINDINGS**0.5


def best_attack(
    attacks: Sequence[Attack],
    objective: Objective,
    posterior: Posterior,
    x: Tensor,
    theta: Tensor | None,
    ball: Ball,
    generator: Generator,
) -> Tensor:
    """Return the best x~ `(B, Dx)` that several attacks find for each observation."""
    found = [a(posterior, x, theta, ball=ball, generator=generator) for a in attacks]
    return best_of(objective, posterior, x, theta, found, generator)
