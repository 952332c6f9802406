"""How far perturbations of the observations move the posterior."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Generator, Tensor
from torch.distributions import Distribution

from robust_npe.adapters.prior_draws import PriorDraws
from robust_npe.attacks import (
    PGD,
    Attack,
    Ball,
    Found,
    KLForward,
    MeanShift,
    Noise,
    Objective,
    minimal_radius,
)
from robust_npe.attacks.objectives import with_samples
from robust_npe.auditing.case import Case
from robust_npe.auditing.keeping import Keep, at_once, kept_table
from robust_npe.auditing.settings import AuditSettings
from robust_npe.divergences import kl_with_error
from robust_npe.metrics.information import share_outside
from robust_npe.posterior import Posterior, as_events, log_prob, posterior_at
from robust_npe.random import child, draws_from

__all__ = [
    "CLEAN",
    "CRITERIA",
    "Attacked",
    "attacked",
    "minimal",
    "moved",
    "summaries",
]

CLEAN = "none"  # name of the attack that changes nothing
QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
CRITERIA: dict[str, type[Objective]] = {"kl_forward": KLForward, "mean_shift": MeanShift}
"""What counts as moved when it exceeds 1: nats, or posterior standard deviations."""
NOISES, JUDGING = 15, 64  # draws of noise, and samples behind the divergence of each
RESOLVED = 4.0  # numbers of float32 that a standard deviation must span to be one
BEYOND = 4.0  # of the largest radius: where the search for the smallest one gives up


@dataclass(frozen=True)
class Attacked:
    """What one attack found at one radius.

    Attributes:
        attack: Name of the attack.
        epsilon: The radius.
        found: x~ of the first observations.
    """

    attack: str
    epsilon: float
    found: Found

    @property
    def x_adv(self) -> Tensor:
        """x~ `(B, Dx)`."""
        return self.found.x_adv


def attacked(
    case: Case, attack: Attack, settings: AuditSettings, keep: Keep = at_once
) -> list[Attacked]:
    """Attack the first observations at every radius; for comparison, with random noise that moves
    the posterior as much as half of 15 draws do."""
    noise, results = _MedianNoise(), []
    methods = [noise] if attack.name == Noise.name else [noise, attack]
    for kind, method in enumerate(methods):
        for k, epsilon in enumerate(case.epsilons):
            search = partial(_searched, case, method, epsilon, settings)
            arrays = keep(f"attack_{kind}_{k}", search)
            zero = arrays.get("zero_gradients")
            x_adv = torch.as_tensor(arrays["x_adv"])
            found = Found(x_adv, None if zero is None else torch.as_tensor(zero))
            results.append(Attacked(method.name, epsilon, found))
    return results


def _searched(
    case: Case, method: Attack, epsilon: float, settings: AuditSettings
) -> dict[str, np.ndarray]:
    """Attack at one radius, batch by batch."""
    generator = case.generator("attack", method.name, str(epsilon))
    ball, parts = case.ball(epsilon), []
    with draws_from(child(generator)):  # a posterior that is random draws from there
        for x, theta in case.batches(settings.batch_size, settings.num_attacked):
            parts.append(method.search(case.posterior, x, theta, ball, generator))
    zero = [part.zero_gradients for part in parts if part.zero_gradients is not None]
    arrays = {"x_adv": torch.cat([part.x_adv for part in parts])}
    arrays |= {"zero_gradients": torch.cat(zero)} if zero else {}
    return {name: values.cpu().numpy() for name, values in arrays.items()}


class _MedianNoise(Noise):
    """Of 15 random perturbations as large as the radius, the one with the median divergence."""

    def search(
        self,
        posterior: Posterior,
        x: Tensor,
        theta: Tensor | None,
        ball: Ball,
        generator: Generator,
    ) -> Found:
        """Draw, judge with common random numbers, and choose for each observation."""
        x = x.detach()
        drawn = [ball.filled(x, ball.surface(x, generator)) for _ in range(NOISES)]
        judge = with_samples(KLForward()(posterior, x, theta, child(generator)), JUDGING)
        with torch.no_grad():
            values = torch.stack([judge(x_adv) for x_adv in drawn])
        middle = values.argsort(0)[NOISES // 2]
        return Found(torch.stack(drawn)[middle, torch.arange(len(x))])


@torch.no_grad()
def moved(
    case: Case, results: Sequence[Attacked], settings: AuditSettings, keep: Keep = at_once
) -> pd.DataFrame:
    """Return one row for each observation, attack and radius.

    `kl_forward` = KL(q(.|x) || q(.|x~)) in nats and `kl_forward_se`, its Monte-Carlo error;
    `mean_shift`, the length over parameters of the shift of the mean in posterior standard
    deviations; `parameter`, which one shifts most; `distance` of x~ in the unit of epsilon;
    `nll` = -log q(theta|x~) where theta is known; `leakage`, the mass of q(.|x~) outside of the
    prior's support where that is known; `effective_draws`, how many draws from the prior carry
    q(.|x~) where it is a weighting of these. The attack `none` at radius 0 is x itself.
    """
    clean = Attacked(CLEAN, 0.0, Found(case.x))
    frames = [
        kept_table(keep, f"moved_{k}", partial(_moved_by, case, result, settings))
        for k, result in enumerate([clean, *results])
    ]
    table = pd.concat(frames, ignore_index=True)
    first = ["observation", "attack", "epsilon"]
    return table[[*first, *(c for c in table.columns if c not in first)]]


def _moved_by(case: Case, result: Attacked, settings: AuditSettings) -> pd.DataFrame:
    frames, start = [], 0
    for x, theta in case.batches(settings.batch_size, settings.num_attacked):
        x_adv = result.x_adv[start : start + len(x)]
        values = _measured(case, x, x_adv, theta, settings)
        values["observation"] = range(start, start + len(x))
        frames.append(pd.DataFrame({**values, "attack": result.attack, "epsilon": result.epsilon}))
        start += len(x)
    return pd.concat(frames, ignore_index=True)


def _measured(
    case: Case, x: Tensor, x_adv: Tensor, theta: Tensor | None, settings: AuditSettings
) -> dict[str, Any]:
    with draws_from(case.generator("posterior")):
        p, q = case.q(x), case.q(x_adv)
    count, generator = settings.num_samples, case.generator("divergence")
    value, error = kl_with_error(p, q, count, generator)
    before, after = (case.draws(v, count).double() for v in (x, x_adv))
    if torch.equal(x, x_adv):
        nowhere = before.isnan().any(0).any(-1).to(value.device)
        value = torch.where(nowhere, torch.nan, torch.zeros_like(value))
        error = value.clone()
    (mean, std), (mean_adv, _) = (_moments(q, s) for q, s in ((p, before), (q, after)))
    blurred = std <= RESOLVED * torch.finfo(torch.float32).eps * before.abs().amax(0)
    shift = (mean_adv - mean) / torch.where(blurred, torch.nan, std)
    shift = torch.where(mean_adv == mean, 0.0, shift)
    names = case.theta_names
    values: dict[str, Any] = {
        "kl_forward": value.double(),
        "kl_forward_se": error.double(),
        "mean_shift": torch.linalg.vector_norm(shift, dim=1),
        "parameter": [names[i] for i in shift.abs().argmax(1).tolist()],
        "distance": case.ball(1.0).norm(x_adv - x) / case.ball(1.0).radius,
    }
    if theta is not None:
        with draws_from(case.generator("posterior")):
            density = posterior_at(case.over_theta, x_adv)
        values["nll"] = -log_prob(density, as_events(density, theta.to(x)))
    if isinstance(q, PriorDraws):
        values["effective_draws"] = q.effective_sample_size.double()
    if case.task is not None and case.task.knows_support:
        values["leakage"] = share_outside(case.task.prior, after)
    return {k: v.tolist() if isinstance(v, Tensor) else v for k, v in values.items()}


def _moments(q: Distribution, samples: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each parameter `(B, D)`, exact where they are known."""
    if isinstance(q, PriorDraws):
        mean, std = q.moments()
        return mean.to(samples), std.to(samples)
    return samples.mean(0), samples.std(0)


@torch.no_grad()
def summaries(case: Case, results: Sequence[Attacked], settings: AuditSettings) -> pd.DataFrame:
    """Return mean, standard deviation and quantiles of each parameter at every x and x~: one row
    for each observation, attack, radius and parameter. Observations that were not attacked have
    those at x alone."""
    frames = []
    for result in [Attacked(CLEAN, 0.0, Found(case.x)), *results]:
        start = 0
        for x in result.x_adv.split(settings.batch_size):
            draws = case.draws(x, settings.num_samples).double()
            levels = torch.tensor([*QUANTILES.values()], dtype=draws.dtype)
            ordered = torch.quantile(draws, levels, dim=0)
            columns = {"mean": draws.mean(0), "sd": draws.std(0)}
            columns |= dict(zip(QUANTILES, ordered, strict=True))
            frame = pd.DataFrame({k: v.flatten().tolist() for k, v in columns.items()})
            names = case.theta_names
            frame.insert(0, "observation", [start + i for i in range(len(x)) for _ in names])
            frame.insert(1, "attack", result.attack)
            frame.insert(2, "epsilon", result.epsilon)
            frame.insert(3, "parameter", names * len(x))
            frames.append(frame)
            start += len(x)
    return pd.concat(frames, ignore_index=True)


def minimal(case: Case, table: pd.DataFrame, settings: AuditSettings) -> pd.DataFrame:
    """Return the smallest radius found at which each of the first observations moves by 1 nat or by
    one posterior standard deviation: an upper bound of the smallest there is, inf where nothing up
    to four times the largest radius was found, NaN where nothing is known about the criterion. One
    row for each observation and criterion.

    PGD on the criterion itself is bisected, see `minimal_radius`; where the audit's own attack
    reached the criterion nearer to x, that counts.

    Args:
        case: What is audited.
        table: From `moved`.
        settings: How finely to measure.
    """
    rows: list[tuple[int, str, float]] = []
    count = min(settings.num_minimal, settings.num_attacked, len(case.x))
    x, theta = case.x[:count], None if case.theta is None else case.theta[:count]
    for name, criterion in CRITERIA.items() if count else ():
        generator = case.generator("minimal radius", name)
        largest = BEYOND * max(case.epsilons)
        attack = PGD(criterion(), steps=50)
        with draws_from(child(generator)):
            radius = minimal_radius(
                attack, case.posterior, x, theta, case.ball, criterion(), 1.0, largest, generator,
                num_samples=settings.num_samples,
            ).radius  # fmt: skip
        reached = (
            table[(table.epsilon > 0) & (table[name] > 1)].groupby("observation").distance.min()
        )
        unknown = set(table[table[name].isna()].observation)
        for i, value in enumerate(radius.tolist()):
            nearest = min(value, float(reached.get(i, torch.inf)))
            beyond = torch.nan if i in unknown else torch.inf
            rows.append((i, name, nearest if nearest < torch.inf else beyond))
    return pd.DataFrame(rows, columns=["observation", "criterion", "radius"])
