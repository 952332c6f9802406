"""The standard evaluation: one attack to compare defenses with, its budget fixed by its name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from robust_npe.attacks.balls import Ball
from robust_npe.attacks.base import Attack, Found, frozen
from robust_npe.attacks.black_box import NES, RandomSearch
from robust_npe.attacks.classifier_evaluation import ClassifierSearch, against_labels
from robust_npe.attacks.halving import Problem, Round, halve, values
from robust_npe.attacks.objectives import (
    KLForward,
    NegativeLogLikelihood,
    Objective,
)
from robust_npe.attacks.starts import data_starts, random_starts, spectral_starts
from robust_npe.posterior import Posterior

__all__ = ["StandardEvaluation"]

# auto-1: a change of any of these is a change of the name
EIGENVECTORS, NUM_SCORES, DATA, RANDOM = 2, 32, 8, 24  # starts
ROUNDS = (Round(14, 30, 0.3, 2, 20), Round(4, 50, 0.2, 4, 64), Round(2, 60, 0.1, 8, 160))
JUDGING = 256  # Monte-Carlo samples
RAW_SCORES = 256  # of the spectral point that stays a candidate
CHECKED = 16  # observations that are attacked without gradients, too
MARGIN = 0.05  # by which that has to be better, relative to what gradients found
LOST = 0.25  # share of the checked observations from which on all are attacked without gradients


class StandardEvaluation(Attack):
    """Successive halving over diverse starts, checked by attacks without gradients.

    One run of PGD from one random start misses much of what there is; better starts find more than
    better optimisers. The evaluation has no settings, so that its results can be compared; another
    budget has another name.

    1. Starts, all on the ball's surface: plus and minus two leading directions of the Fisher
       information I_x, directions to 8 other observations, 24 random ones.
    2. KL(q(.|x) || q(.|x~)) is climbed in three rounds: 30 steps with 2 samples each from the best
       14 starts, 50 with 4 from the best 4, 60 with 8 from the best 2. For another objective the
       same is done with that, the results of the first search among its starts; for the
       likelihood instead of it.
    3. Candidates are the results of both searches and the leading direction of I_x itself, from
       256 scores: where divergences are below about 0.02 nats, gradients are noise, and it wins.
       The best of each observation by the objective counts, on fresh random numbers.
    4. On the first 16 observations, attacks that only evaluate: `RandomSearch` with 200 queries and
       `NES` with 320, smoothed over the whole ball. Where they win by more than 5 % on more than a
       quarter of these, gradients cannot be trusted: all observations are attacked in this way, and
       by `NES` with 0.3 radii, too; the better result counts.

    Labels of classifiers are attacked by `ClassifierSearch` instead.

    Args:
        objective: What is increased in the end. Its number of samples is not used for the
            divergences of KL.
    """

    name = "auto-1"

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Search for perturbed observations; arguments as for `Attack.search`. The zero gradients
        are those of the last search."""
        problem = Problem(posterior, x.detach(), theta, ball)
        with frozen(posterior):
            if against_labels(self.objective, posterior):
                return ClassifierSearch(self.objective).search(problem, generator)
            x_adv, zero = self._climb(problem, generator)
            return Found(self._check(problem, x_adv, generator), zero)

    def _climb(self, problem: Problem, generator: Generator) -> tuple[Tensor, Tensor]:
        """Return the best x~ that gradients find, and the share of steps without one."""
        posterior, x, _, ball = problem
        starts = [
            *spectral_starts(posterior, x, ball, EIGENVECTORS, NUM_SCORES, generator),
            *data_starts(x, ball, DATA, generator),
            *random_starts(x, ball, RANDOM, generator),
        ]
        candidates = spectral_starts(posterior, x, ball, 1, RAW_SCORES, generator)
        zero = torch.zeros_like(x[:, 0])
        for objective in self._searches():
            given = (objective, [*starts, *candidates], ROUNDS)
            found, zero = halve(problem, *given, generator)
            candidates += found
        return self._best(problem, candidates, generator), zero

    def _searches(self) -> list[Objective]:
        """What is climbed, one after the other."""
        if type(self.objective) in (KLForward, NegativeLogLikelihood):
            return [self.objective]  # a likelihood is much cheaper than a divergence
        return [KLForward(), self.objective]

    def _best(self, problem: Problem, candidates: Sequence[Tensor], generator: Generator) -> Tensor:
        judged = values(problem, self.objective, candidates, JUDGING, generator)
        return _taken(candidates, judged)

    def _check(self, problem: Problem, x_adv: Tensor, generator: Generator) -> Tensor:
        """Return x~, or better ones where attacks without gradients find them."""
        count = min(CHECKED, len(x_adv)) if self.objective.rowwise else len(x_adv)
        few = torch.arange(count, device=x_adv.device)
        checked, attacks = problem.rows(few), gradient_free(self.objective)
        found = self._run(attacks[:2], checked, generator)
        better = torch.ones_like(few, dtype=torch.bool)
        for _ in range(2):  # twice, as noise may look better once
            pair = (x_adv[few], found)
            before, after = values(checked, self.objective, pair, JUDGING, generator)
            better &= after > before + MARGIN * before.abs()
        if int(better.sum()) > LOST * len(few):
            other = self._run(attacks, problem, generator)
        else:
            other = x_adv.clone()
            other[few] = found
        return self._best(problem, [x_adv, other], generator)

    def _run(self, attacks: Sequence[Attack], problem: Problem, generator: Generator) -> Tensor:
        found = [attack.search(*problem, generator).x_adv for attack in attacks]
        return self._best(problem, found, generator)


def gradient_free(objective: Objective) -> Sequence[Attack]:
    """The attacks that only evaluate; the first two are those of the check."""
    return RandomSearch(objective), NES(objective, radius=1.0), NES(objective)


def _taken(candidates: Sequence[Tensor], judged: Tensor) -> Tensor:
    """Return the candidates `(B, Dx)` with the highest values `(K, B)`, the first of equals."""
    index = judged.argmax(0)[None, :, None].expand(1, -1, candidates[0].shape[-1])
    return torch.stack(list(candidates)).gather(0, index)[0]
