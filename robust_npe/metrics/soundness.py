"""Flags that say when an attack's result should not be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import pandas as pd
from torch import Tensor
from typing_extensions import override

from robust_npe.attacks import L2, NES, PGD, Ball, Expectation, Objective, RandomSearch, blindness
from robust_npe.attacks.soundness import (
    beats,
    best_attack,
    differs,
    gradient_error,
    kl_at_zero,
    quadratic_ratio,
    unresolved,
)
from robust_npe.checks import require, require_positive_integer
from robust_npe.metrics.base import Context, Measurement, Metric
from robust_npe.random import draws_from

__all__ = ["FLAGS", "Flag", "Soundness", "flags"]


TINY = 1e-9
OF_PGD = "stronger"  # a flag of PGD, not of the result
WEAK = "the attack is weak, or the posterior moves no further (it saturates)"


class Flag(NamedTuple):
    """A measurement that should stay within limits, and what people are told where it does not."""

    low: float
    high: float
    meaning: Callable[[float], str]

    def fires(self, value: float) -> bool:
        """Tell whether a value is outside of the limits."""
        return not self.low <= value <= self.high

    def worst(self, values: Iterable[float]) -> float:
        """Return the value that is furthest outside of the limits, by its factor."""
        return max(values, key=lambda v: max(v / max(self.high, TINY), self.low / max(v, TINY)))


FLAGS = {
    "gradient_error": Flag(
        0.0,
        0.1,
        lambda worst: (
            f"gradients miss {100 * min(worst, 1):.3g} % of how the objective changes across the "
            "ball: they hide steps or noise, so the result is a lower bound"
        ),
    ),
    "zero_gradients": Flag(0.0, 0.05, blindness),
    "black_box": Flag(
        0.0,
        0.05,
        lambda worst: (
            f"attacks without gradients find more on {100 * worst:.3g} % of the observations: "
            "its gradients lie, or it stopped on low hills: stronger ones may find more still"
        ),
    ),
    "quadratic_ratio": Flag(
        0.3,
        5.0,
        lambda worst: (
            f"the attack finds {worst:.2g} times what the posterior's slope at x "
            f"promises: {WEAK if worst < 1 else 'the posterior is flat only at x'}"
        ),
    ),
    "random": Flag(
        0.0,
        0.0,
        lambda worst: (
            "two calls of the posterior at the same x differ: attack its expectation, "
            "objective=expectation"
        ),
    ),
    "kl_at_zero": Flag(
        0.0,
        0.05,
        lambda worst: (
            "the divergence of a posterior from itself is not zero: its samples and its "
            "densities do not belong together, or it is random"
        ),
    ),
    "unresolved": Flag(
        0.0,
        0.0,
        lambda worst: (
            f"float32 hardly tells the ball from its centre on {100 * worst:.3g} % of the "
            "observations, which are so far from 0 beside the radius: nothing was tested there. "
            "Take a larger radius, or subtract a constant from x before training"
        ),
    ),
    "noise": Flag(
        0.0,
        1.0,
        lambda worst: (
            f"random noise of the same size moves the posterior {worst:.3g} times as far (median "
            "KL or median shift of the mean): the attack is weak, or climbs something else; try "
            "objective=mean_shift or another attack, too"
        ),
    ),
    "stronger": Flag(
        0.0,
        0.2,
        lambda worst: (
            f"one run of PGD finds less than 0.9 of this on {100 * worst:.3g} % of the "
            "observations: do not judge this posterior with PGD alone"
        ),
    ),
    "masked": Flag(
        0.0,
        0.05,
        lambda worst: (
            f"PGD leaves {100 * worst:.3g} % of the observations correct that other attacks break: "
            "margins lead further than the likelihood, steps are too few, or gradients are masked "
            "(zero_pgd tells); use attack=auto"
        ),
    ),
    "disorder": Flag(
        0.0,
        0.0,
        lambda worst: (
            f"a stronger attack leaves {100 * worst:.3g} % more accuracy than a weaker one: "
            "it is weak, or gradients mislead it"
        ),
    ),
}
"""Limits and meanings by name, see `docs/soundness.md`."""


class Soundness(Metric):
    """Flags of an attack's result: `flagged` is the number of those outside of the limits `FLAGS`.

    - `gradient_error`: relative error of the objective's gradients against finite steps, median;
    - `zero_gradients`: share of the attack's steps that had none;
    - `quadratic_ratio`: KL over its largest value to second order, median, in L2 for KL, where at
      least half of the observations have a value to second order that means something;
    - `random`: share of observations at which two calls of the posterior differ;
    - `kl_at_zero`: share at which KL(q(.|x) || q(.|x)) is not 0;
    - `black_box`: share on which attacks without gradients reach 1.05 times the result or more, by
      two standard errors;
    - `stronger`: share on which one run of PGD reaches less than 0.9 of it;
    - `unresolved`: share at which no feature may move by more than a few float32 numbers; left out
      where it is 0.

    What does not apply is left out. References and definitions: `robust_npe.attacks.soundness`.

    Args:
        num_observations: Observations that are looked at, from the first.
        num_samples: Samples of divergences without a closed form.
        thorough: Whether to run `black_box` and, for the standard evaluation (`auto`), `stronger`,
            which cost an attack each; None for the standard evaluation only.
    """

    name = "soundness"

    def __init__(
        self,
        num_observations: int = 32,
        num_samples: int = 256,
        thorough: bool | None = None,
    ) -> None:
        name = "metrics.soundness"
        require_positive_integer(f"{name}.num_observations", num_observations)
        require(num_samples > 3, f"{name}.num_samples", num_samples, "at least 4")
        self.num_observations = num_observations
        self.num_samples = num_samples
        self.thorough = thorough

    @override
    def __call__(self, context: Context) -> list[Measurement]:
        if not context.attacked or not context.epsilon or context.ball is None:
            return []
        objective = getattr(context.attack, "objective", None)
        rowwise = getattr(objective, "rowwise", True)
        count = self.num_observations if rowwise else len(context.x)
        first = replace(
            context, theta=context.theta[:count], x=context.x[:count], x_adv=context.x_adv[:count]
        )
        with draws_from(context.generator("soundness posterior")):
            values = {k: v for k, v in self._measured(first) if not math.isnan(v)}
        fired = [name for name, v in values.items() if FLAGS[name].fires(v) and name != OF_PGD]
        values["flagged"] = float(len(fired))
        rows = [{"statistic": name, "level": None, "value": v} for name, v in values.items()]
        return [Measurement("soundness", rows)]

    def _measured(self, context: Context) -> Iterator[tuple[str, float]]:
        """Yield names and values, NaN for what does not apply."""
        found, objective = context.found, getattr(context.attack, "objective", None)
        yield "unresolved", _share(unresolved(context.x, _ball(context))) or math.nan
        if found is not None and found.zero_gradients is not None:
            yield "zero_gradients", _share(found.zero_gradients)
        if not isinstance(objective, Expectation):  # made for posteriors that are random
            q, x, generator = context.posterior, context.x, context.generator("soundness at x")
            yield "random", _share(differs(q, x, generator))
            yield "kl_at_zero", _share(kl_at_zero(q, x, self.num_samples, generator))
        if not isinstance(objective, Objective):
            return
        yield "gradient_error", self._gradient_error(context, objective)
        yield "quadratic_ratio", self._quadratic_ratio(context, objective)
        name = context.attack.name if context.attack is not None else ""
        if name.startswith("auto") if self.thorough is None else self.thorough:
            yield "black_box", self._black_box(context, objective)
            if name.startswith("auto"):
                yield "stronger", self._stronger(context, objective)

    def _gradient_error(self, context: Context, objective: Objective) -> float:
        generator = context.generator("soundness gradient")
        given = context.posterior, context.x, context.theta, _ball(context)
        error = gradient_error(objective, *given, generator)
        return math.nan if error is None else float(error.median())

    def _quadratic_ratio(self, context: Context, objective: Objective) -> float:
        ball, reverse = _ball(context), objective.name == "kl_reverse"
        if not isinstance(ball, L2) or objective.name not in ("kl_forward", "kl_reverse"):
            return math.nan
        generator = context.generator("soundness quadratic")
        given = context.posterior, context.x, context.x_adv, ball
        ratio = quadratic_ratio(*given, reverse, self.num_samples, generator)
        enough = 2 * int(ratio.isnan().sum()) <= len(ratio)
        return float(ratio.nanmedian()) if enough else math.nan

    def _black_box(self, context: Context, objective: Objective) -> float:
        generator = context.generator("soundness black box")
        attacks = [RandomSearch(objective), NES(objective), NES(objective, radius=1.0)]
        given = objective, context.posterior, context.x, context.theta
        x_adv = best_attack(attacks, *given, _ball(context), generator)
        return _share(beats(*given, x_adv, context.x_adv, 1.05, generator))

    def _stronger(self, context: Context, objective: Objective) -> float:
        generator = context.generator("soundness pgd")
        given = objective, context.posterior, context.x, context.theta
        x_adv = best_attack([PGD(objective)], *given, _ball(context), generator)
        return _share(beats(*given, context.x_adv, x_adv, 1 / 0.9, generator))


def _ball(context: Context) -> Ball:
    assert context.ball is not None
    assert context.epsilon is not None
    return context.ball(context.epsilon)


def _share(values: Tensor) -> float:
    return float(values.double().mean())


def flags(table: pd.DataFrame) -> dict[str, str]:
    """Return a sentence for each flag that fires in tidy results, with radii and values, by name.

    Args:
        table: With rows of the metric `soundness`; what attacks tell of zero gradients counts
            without that metric, too.
    """
    attacked = table[table.epsilon > 0]  # at radius 0 there is nothing to climb
    own = attacked[attacked.metric == "soundness"]
    told = attacked[attacked.statistic == "zero_gradient_fraction"]
    renamed = told.assign(statistic="zero_gradients")
    rows = pd.concat([own, renamed]).drop_duplicates(["epsilon", "statistic", "value"])
    sentences = {}
    for name, flag in FLAGS.items():
        values = rows[rows.statistic == name]
        values = values[[flag.fires(float(v)) for v in values.value]]
        if len(values):
            radii = ", ".join(f"{e:g}" for e in sorted(values.epsilon.unique()))
            meaning = flag.meaning(flag.worst(values.value))
            sentences[name] = f"soundness at epsilon {radii}: {meaning}"
    return sentences
