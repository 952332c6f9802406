"""The standard evaluation of classifiers: several objectives, until nothing more breaks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import cast

import torch
from torch import Generator, Tensor, nn

from robust_npe.attacks.base import Found
from robust_npe.attacks.black_box import NES, RandomSearch
from robust_npe.attacks.classifying import ComponentNLL, LogitMargin, OfMembers, PredictiveMargin
from robust_npe.attacks.halving import Problem
from robust_npe.attacks.objectives import NegativeLogLikelihood, Objective
from robust_npe.attacks.pgd import PGD
from robust_npe.posterior import Posterior

__all__ = ["ClassifierSearch", "against_labels", "in_float64"]

# auto-1: a change of any of these is a change of the name
STEPS, RESTARTS = 50, 2
CHECKED = 16  # observations that are attacked without gradients, too
BLIND = 0.05  # share of steps without gradient from which on float64 is tried


def against_labels(objective: Objective, posterior: Posterior) -> bool:
    """Tell whether this is an attack on what a classifier says of labels."""
    likelihood = isinstance(objective, NegativeLogLikelihood)
    return isinstance(objective, OfMembers) or (
        likelihood and bool(getattr(posterior, "classifies", False))
    )


def in_float64(posterior: Posterior) -> Posterior:
    """Return a copy of a network that computes in float64, for any input; what is no module is
    returned as it is."""
    if not isinstance(posterior, nn.Module):
        return posterior
    network = copy.deepcopy(posterior).double().requires_grad_(False)
    return lambda x: network(x.double())


class ClassifierSearch:
    """Breaks what it can: the worst case over objectives, precisions, and attacks without gradient.

    PGD climbs the objective that was asked for, then the margin of mean logits, which does not
    saturate, the likelihood, and the expected loss; each from new random starts, and only at
    observations that are still classified correctly. Where more than 5 % of the first one's steps
    saw no gradient, all of it is repeated in float64. Attacks that only evaluate follow on 16 of
    the observations that are left. The largest `PredictiveMargin` counts.

    Args:
        objective: What is climbed first.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def search(self, problem: Problem, generator: Generator) -> Found:
        """Search for perturbed observations; the zero gradients are those of the objective."""
        posterior, x, _, ball = problem
        best = ball.feasible(x, x + ball.sample(x, generator))
        best = _better(problem, x, best, generator)
        zero = torch.zeros_like(x[:, 0])
        for i, objective in enumerate(self._objectives()):
            best, blind = self._climb(problem, objective, best, generator)
            zero = blind if i == 0 else zero
        if float(zero.mean()) > BLIND:
            double = problem._replace(posterior=in_float64(posterior), x=x.double())
            for objective in self._objectives():
                best, _ = self._climb(problem, objective, best, generator, double)
        return Found(self._check(problem, best, generator), zero)

    def _objectives(self) -> Iterator[Objective]:
        yield self.objective
        for other in (LogitMargin(), NegativeLogLikelihood(), ComponentNLL()):
            if other.name != self.objective.name:
                yield other

    def _climb(
        self,
        problem: Problem,
        objective: Objective,
        best: Tensor,
        generator: Generator,
        climbed: Problem | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return better x~ where one objective leads to them, and the share of steps without a
        gradient, 0 where nothing was left to break. `climbed` is the same problem in float64."""
        zero = torch.zeros_like(best[:, 0])
        for restart in range(RESTARTS):
            left = _unbroken(problem, best, generator)
            if not len(left):
                break
            rows = problem.rows(left)
            found = PGD(objective, STEPS).search(*(climbed or problem).rows(left), generator)
            x_adv = rows.ball.feasible(rows.x, found.x_adv.to(best))
            best = best.clone()
            best[left] = _better(rows, best[left], x_adv, generator)
            if restart == 0:
                zero[left] = cast(Tensor, found.zero_gradients).to(best)
        return best, zero

    def _check(self, problem: Problem, best: Tensor, generator: Generator) -> Tensor:
        left = _unbroken(problem, best, generator)[:CHECKED]
        if not len(left):
            return best
        rows, best, margin = problem.rows(left), best.clone(), PredictiveMargin()
        for attack in (RandomSearch(margin), NES(margin)):
            found = attack.search(*rows, generator).x_adv
            best[left] = _better(rows, best[left], found, generator)
        return best


@torch.no_grad()
def _margin(problem: Problem, x_adv: Tensor, generator: Generator) -> Tensor:
    climb = PredictiveMargin()(problem.posterior, problem.x, problem.theta, generator)
    return climb(x_adv).to(x_adv.dtype)


def _unbroken(problem: Problem, x_adv: Tensor, generator: Generator) -> Tensor:
    """Return the numbers of the rows that are still classified correctly."""
    return (_margin(problem, x_adv, generator) <= 0).nonzero().squeeze(-1)


def _better(problem: Problem, first: Tensor, second: Tensor, generator: Generator) -> Tensor:
    """Return the x~ with the larger margin, row by row."""
    values = (_margin(problem, x_adv, generator) for x_adv in (first, second))
    is_better = torch.lt(*values)
    return torch.where(is_better.unsqueeze(-1), second, first)
