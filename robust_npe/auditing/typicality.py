"""Do observations look like the simulations that a posterior was trained on?

Each check gives a number that is large where x looks unusual. Its p-value is the share of held-out
simulations with a number at least as large, (1 + #) / (1 + n): exact, whatever the check, as long
as x comes from where the simulations come from. It says nothing about a theta that is rare under
the prior but possible, and a p-value cannot be below 1 / (1 + n).

References:
    Schmitt, Bürkner, Köthe & Radev (2023), "Detecting model misspecification in amortized Bayesian
    inference with neural networks", https://arxiv.org/abs/2112.08866
    Ward et al. (2022), "Robust neural posterior estimation and statistical model criticism",
    https://arxiv.org/abs/2210.06564
    Gretton et al. (2012), "A kernel two-sample test", https://jmlr.org/papers/v13/gretton12a.html
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Generator, Tensor
from torch.distributions.constraints import real_vector

from robust_npe.auditing.case import Case
from robust_npe.auditing.settings import AuditSettings
from robust_npe.defenses import NoDefense
from robust_npe.discrepancy import median_square, squared_distances
from robust_npe.estimators import MAF, Estimator, Identity
from robust_npe.random import child, draws_from
from robust_npe.training import TrainingSettings, train

__all__ = ["ALL", "CHECKS", "COMBINED", "FEWEST", "p_values", "typicality"]

log = logging.getLogger(__name__)

ALL = -1  # number of the "observation" that is all of them together
COMBINED = "combined"
FEWEST = 20  # simulations on each side
KERNEL_ROWS = 1000  # simulations that kernels are evaluated at
PERMUTATIONS = 999
FLOW_FEATURES = 200  # more take minutes
FLOW = TrainingSettings(batch_size=256, max_epochs=60, patience=6)
VARIES = 0.5  # standard deviation along a direction that is not narrower than that
TINY = torch.finfo(torch.float32).tiny
NARROWEST = 1e-8  # smallest variance along a direction, relative to the largest

Score = Callable[[Tensor], Tensor]
"""Maps rows `(B, K)` to how unusual they are, `(B,)`."""

CHECKS = {
    "mahalanobis": "distance from the mean in units of the covariance",
    "mmd": "distance from all simulations at once (maximum mean discrepancy)",
    "flow": "negative log density under a flow that was trained on simulations of x alone",
    COMBINED: "the smallest p-value of the others, itself calibrated on held-out simulations",
}
"""What the checks measure."""


def typicality(case: Case, settings: AuditSettings) -> pd.DataFrame:
    """Return one row for each observation and check: `score`, `p_value`, the `space` it was looked
    at in (`data` or `embedding`), and how many held-out simulations the p-value is from.

    Of at least two observations, `observation` -1 is all of them: a permutation test of the maximum
    mean discrepancy between them and held-out simulations. It asks whether they look like draws
    from the prior predictive, which repeated measurements of one system do not.

    Args:
        case: With simulations; without them the table is empty.
        settings: How finely to measure.
    """
    columns = ["observation", "space", "check", "score", "p_value", "num_held_out"]
    if case.reference is None or case.held_out is None:
        return pd.DataFrame(columns=columns)
    rows: list[tuple[Any, ...]] = []
    held: list[Tensor] = []
    seen: list[Tensor] = []
    for space in _spaces(case, settings):
        for check, score in space.checks(case, settings):
            scores, own = score(space.x), score(space.held_out)
            held.append(_ranks(own, own) - 1)  # each among the others
            seen.append(_ranks(scores, own))
            rows += _rows(space.name, check, scores, p_values(scores, own), len(own))
        if len(case.x) > 1:
            value, p = _two_sample(space, case.generator("permutations", space.name))
            rows.append((ALL, space.name, "mmd", value, p, len(space.held_out)))
    if held:
        scores, own = (-torch.stack(ranks).amin(0).double() for ranks in (seen, held))
        rows += _rows("all", COMBINED, scores, p_values(scores, own), len(own))
    return pd.DataFrame(rows, columns=columns)


def p_values(scores: Tensor, held_out: Tensor) -> Tensor:
    """Return the share of `held_out (N,)` at least as large as each of `scores (B,)`, where the
    score itself counts, too: (1 + #) / (1 + N), shape `(B,)`."""
    return _ranks(scores, held_out).double() / (1 + len(held_out))


def _ranks(scores: Tensor, held_out: Tensor) -> Tensor:
    """Return 1 + the number of `held_out (N,)` at least as large as each of `scores (B,)`."""
    ordered = held_out.sort().values
    return 1 + len(ordered) - torch.searchsorted(ordered, scores.contiguous())


def _rows(space: str, check: str, scores: Tensor, p: Tensor, n: int) -> list[tuple[Any, ...]]:
    pairs = zip(scores.tolist(), p.tolist(), strict=True)
    return [(i, space, check, score, value, n) for i, (score, value) in enumerate(pairs)]


@dataclass(frozen=True)
class _Space:
    """Simulations and observations in some coordinates, each `(*, K)`, float64."""

    name: str
    reference: Tensor
    held_out: Tensor
    x: Tensor

    def checks(self, case: Case, settings: AuditSettings) -> Iterator[tuple[str, Score]]:
        yield "mahalanobis", lambda rows: rows.square().sum(1).sqrt()
        yield "mmd", kernel_distance(self.reference[:KERNEL_ROWS])
        varying = bool((self.reference.std(0) > VARIES).any())
        small = self.reference.shape[1] <= FLOW_FEATURES
        if settings.flow and self.name == "data" and varying and small:
            try:
                yield "flow", density(self.reference, case.generator("flow"))
            except FloatingPointError as error:  # of extreme values
                log.warning("no density of x: %s", error)


@torch.no_grad()
def _spaces(case: Case, settings: AuditSettings) -> list[_Space]:
    """Return whitened data, and the whitened summaries of the posterior where it makes some."""
    assert case.reference is not None
    assert case.held_out is not None
    sets = [
        case.reference[: settings.num_simulations],
        case.held_out[1][: settings.num_held_out],
        case.x,
    ]
    if min(len(part) for part in sets[:2]) < FEWEST:
        return []
    spaces = {"data": sets}
    if (embed := case.embed) is not None:
        size = settings.batch_size
        with draws_from(case.generator("embedding")):
            spaces["embedding"] = [torch.cat([embed(r) for r in s.split(size)]) for s in sets]
    return [_whitened(name, [part.double() for part in parts]) for name, parts in spaces.items()]


def _whitened(name: str, parts: list[Tensor]) -> _Space:
    """Give the reference mean 0 and covariance 1: distances no longer depend on units, and count
    in directions in which simulations hardly vary, too."""
    mean, std = parts[0].mean(0), parts[0].std(0)
    std = torch.where(std > 0, std, mean.abs().clamp(min=TINY) * 1e-6)
    reference, *others = ((part - mean) / std for part in parts)
    values, vectors = torch.linalg.eigh(_covariance(reference))
    to_white = vectors / values.clamp(min=max(NARROWEST * float(values[-1]), TINY)).sqrt()
    return _Space(name, *(part @ to_white for part in (reference, *others)))


def _covariance(z: Tensor) -> Tensor:
    """Return the covariance of `z (N, K)`, shrunk (Ledoit-Wolf) where rows are few."""
    if len(z) >= 2 * z.shape[1]:
        return torch.cov(z.mT).reshape(z.shape[1], z.shape[1])
    from sklearn.covariance import LedoitWolf  # slow to import, rarely needed

    return torch.from_numpy(LedoitWolf().fit(z.numpy()).covariance_)


def kernel_distance(reference: Tensor) -> Score:
    """Return the squared maximum mean discrepancy between one row and a reference `(N, K)`, with a
    Gaussian kernel whose width is the median distance in the reference."""
    squares = squared_distances(reference, reference)
    width = median_square(squares)
    within = torch.exp(-squares / (2 * width)).mean()

    def score(rows: Tensor) -> Tensor:
        kernel = torch.exp(-squared_distances(rows, reference) / (2 * width))
        return 1 + within - 2 * kernel.mean(1)

    return score


def density(reference: Tensor, generator: Generator) -> Score:
    """Train a masked autoregressive flow on rows `(N, K)`, a tenth of which decides when to stop;
    return the negative of its log density, in nats."""
    varies = reference.std(0) > VARIES
    dim = int(varies.sum())
    head = partial(MAF, hidden=(50, 50))
    with draws_from(child(generator)):
        flow = Estimator(head, Identity, dim, 1, real_vector, "none")  # of x, given nothing
    rows = reference[:, varies].float()
    held = max(1, len(rows) // 10)
    pairs, validation = (
        (part, part.new_zeros(len(part), 1)) for part in (rows[held:], rows[:held])
    )
    train(flow, NoDefense(), pairs, validation, FLOW, child(generator))
    flow.eval()

    @torch.no_grad()
    def score(rows: Tensor) -> Tensor:
        rows = rows[:, varies].float()
        log_prob = flow(rows.new_zeros(len(rows), 1)).log_prob(rows)
        return -log_prob.double().nan_to_num(-torch.inf)

    return score


def _two_sample(space: _Space, generator: Generator) -> tuple[float, float]:
    """Return the unbiased squared maximum mean discrepancy between all observations and held-out
    simulations, and its p-value under permutations."""
    first, second = space.x[:KERNEL_ROWS], space.held_out[:KERNEL_ROWS]
    both = torch.cat([first, second])
    squares = squared_distances(both, both)
    kernel = torch.exp(-squares / (2 * median_square(squares))).fill_diagonal_(0)
    n, m = len(first), len(second)
    orders = torch.stack([torch.randperm(n + m, generator=generator) for _ in range(PERMUTATIONS)])
    orders = torch.cat([torch.arange(n + m).unsqueeze(0), orders])
    chosen = torch.zeros(len(orders), n + m, dtype=kernel.dtype)
    chosen.scatter_(1, orders[:, :n], 1.0)
    product = chosen @ kernel
    inside = (product * chosen).sum(1)
    across = product.sum(1) - inside
    outside = kernel.sum() - inside - 2 * across
    values = inside / (n * (n - 1)) + outside / (m * (m - 1)) - 2 * across / (n * m)
    return float(values[0]), float(p_values(values[:1], values[1:]))
