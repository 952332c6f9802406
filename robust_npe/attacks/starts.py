"""Where attacks begin: points on the ball's surface that are worth climbing from."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack, Found, best_of, frozen
from robust_npe.attacks.objectives import Objective
from robust_npe.checks import require_positive_integer
from robust_npe.fisher import leading_eigenvectors, scores
from robust_npe.posterior import Posterior

__all__ = ["SpectralAttack", "data_starts", "random_starts", "spectral_starts"]

REFINEMENTS = 3  # iterations of the power method within the ball


@torch.no_grad()
def spectral_starts(
    posterior: Posterior,
    x: Tensor,
    ball: Ball,
    count: int,
    num_scores: int,
    generator: Generator,
) -> list[Tensor]:
    """Return x plus and minus the directions along which the posterior moves most, to second order:
    2 * count points `(B, Dx)`, fewer where x has fewer features.

    KL(q(.|x) || q(.|x + delta)) = 1/2 delta^T I_x delta + ..., see `robust_npe.fisher`. In L2 its
    maxima are the eigenvectors of I_x in scaled coordinates. In the other norms they are where the
    power method leads, delta <- steepest step along I_x delta, which never decreases the quadratic
    form; there it starts at the eigenvectors.

    References:
        Journee, Nesterov, Richtarik & Sepulchre (2010), "Generalized power method for sparse
        principal component analysis", https://arxiv.org/abs/0811.4724

    Args:
        posterior: What is attacked; no sample needs a gradient.
        x: Clean observations of shape `(B, Dx)`.
        ball: Allowed perturbations.
        count: Number of directions.
        num_scores: Monte-Carlo samples of I_x.
        generator: Source of randomness.
    """
    unit = 1.0 if ball.scale is None else ball.scale.to(x)
    score = torch.nan_to_num(scores(posterior, x, num_scores, generator, attached=False), 0, 0, 0)
    points = []
    for vector in leading_eigenvectors(score * unit, count):
        delta = ball.steepest_step(vector / unit)
        for _ in range(REFINEMENTS):
            along = torch.einsum("sbi,bi->sb", score, delta)
            delta = ball.steepest_step(torch.einsum("sb,sbi->bi", along, score))
        delta = _nonzero(delta, ball, generator)
        points += [ball.feasible(x, x + delta), ball.feasible(x, x - delta)]
    return points


def data_starts(x: Tensor, ball: Ball, count: int, generator: Generator) -> list[Tensor]:
    """Return the points of the ball's surface in the direction of other observations of the batch,
    `count` points `(B, Dx)`: what posteriors for other data look like is found there. Each row has
    the others in an order of its own; none for a batch of one."""
    unit = 1.0 if ball.scale is None else ball.scale.to(x)
    count = min(count, len(x) - 1)
    rows = torch.arange(len(x))
    offsets = 1 + torch.randperm(len(x) - 1, generator=generator)[:count] if count > 0 else ()
    points = []
    for offset in offsets:
        delta = ball.steepest_step((x[(rows + offset) % len(x)] - x) / unit**2)
        points.append(ball.feasible(x, x + _nonzero(delta, ball, generator)))
    return points


def random_starts(x: Tensor, ball: Ball, count: int, generator: Generator) -> list[Tensor]:
    """Return `count` random points `(B, Dx)` of the ball's surface."""
    return [ball.feasible(x, x + ball.surface(x, generator)) for _ in range(count)]


def _nonzero(delta: Tensor, ball: Ball, generator: Generator) -> Tensor:
    """Return the steps with random ones in the place of those that are zero: every divergence is
    flat at x itself."""
    missing = (delta == 0).all(-1, keepdim=True)
    return torch.where(missing, ball.surface(delta, generator), delta)


class SpectralAttack(Attack):
    """The direction along which the posterior moves most to second order, in its better sign.

    It needs no steps, and where divergences are so small that their gradients are noise it is hard
    to beat; it cannot see what is beyond second order. See `spectral_starts`.

    Args:
        objective: What decides between plus and minus.
        num_scores: Monte-Carlo samples of the Fisher information.
    """

    name = "spectral"

    def __init__(self, objective: Objective, num_scores: int = 256) -> None:
        require_positive_integer("attack.num_scores", num_scores)
        self.objective = objective
        self.num_scores = num_scores

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Find the direction and choose its sign."""
        x = x.detach()
        with frozen(posterior):
            both = spectral_starts(posterior, x, ball, 1, self.num_scores, generator)
            return Found(best_of(self.objective, posterior, x, theta, both, generator))
