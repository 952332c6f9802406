"""Do gradients of a classifier hide what attacks could find?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from robust_npe.attacks import (
    FGSM,
    PGD,
    Attack,
    ComponentNLL,
    NegativeLogLikelihood,
    PublishedSoftmax,
    SurfaceNoise,
)
from robust_npe.attacks.classifier_evaluation import ClassifierSearch
from robust_npe.attacks.halving import Problem
from robust_npe.checks import require_positive_integer
from robust_npe.metrics.base import Context, Measurement
from robust_npe.metrics.classification import OfClassifiers, correct
from robust_npe.metrics.summary import row

__all__ = ["Masking", "disorder", "suite"]

TOLERANCE = 0.02  # of accuracies that should be in order


def suite(steps: int) -> Mapping[str, Attack]:
    """Return the attacks of the published table, and the same without their mistakes.

    Args:
        steps: Of PGD that is not the published one.
    """
    return {
        "random_signs": SurfaceNoise(),
        "published_fgsm": FGSM(PublishedSoftmax()),
        "published_pgd": PGD(PublishedSoftmax(), 15, 0.25, "constant", 0.01, "last"),
        "fgsm": FGSM(ComponentNLL()),
        "pgd": PGD(NegativeLogLikelihood(), steps),
        "fresh_pgd": PGD(ComponentNLL(draws=5), steps),
    }


class Masking(OfClassifiers):
    """Accuracies on the first observations: `clean`, after each attack of `suite`, and `worst`,
    after these, the run's own attack and the search of `attack=auto` together.

    `masked` is the share that PGD on the likelihood leaves correct and the worst case does not, and
    `disorder` by how much accuracies violate pgd <= fgsm + 0.02 <= random_signs + 0.02 (the worst
    case counts all of them, so that it cannot be above); both are flags of soundness.
    `zero_<attack>` is the share of an attack's steps without gradient.

    References:
        Athalye, Carlini & Wagner (2018), "Obfuscated gradients give a false sense of security",
        https://arxiv.org/abs/1802.00420

    Args:
        num_observations: Observations that are looked at, from the first.
        steps: Steps of PGD.
    """

    name = "masking"

    def __init__(self, num_observations: int = 200, steps: int = 40) -> None:
        name = "metrics.masking"
        require_positive_integer(f"{name}.num_observations", num_observations)
        require_positive_integer(f"{name}.steps", steps)
        self.num_observations = num_observations
        self.steps = steps

    @override
    def measure(self, context: Context) -> list[Measurement]:
        if not context.attacked or context.ball is None or not context.epsilon:
            return []
        count = self.num_observations
        x, theta = context.x[:count], context.theta[:count]
        problem = Problem(context.posterior, x, theta, context.ball(context.epsilon))
        right = {"clean": correct(context.posterior, x, theta)}
        values: dict[str, float] = {}
        attempts = [correct(context.posterior, context.x_adv[:count], theta)]
        for name, attack in suite(self.steps).items():
            found = attack.search(*problem, context.generator(f"masking {name}"))
            right[name] = correct(context.posterior, found.x_adv, theta)
            if found.zero_gradients is not None:
                values[f"zero_{name}"] = _share(found.zero_gradients)
        search = ClassifierSearch(NegativeLogLikelihood())
        found = search.search(problem, context.generator("masking search"))
        attempts += [correct(context.posterior, found.x_adv, theta), *right.values()]
        right["worst"] = torch.stack(attempts).all(0)
        accuracies = {name: _share(value) for name, value in right.items()}
        masked = _share(right["pgd"] & ~right["worst"])
        flagged = {"masked": masked, "disorder": disorder(accuracies)}
        rows = [row(name, value) for name, value in {**accuracies, **values, **flagged}.items()]
        told = [row(name, value) for name, value in flagged.items()]
        return [Measurement("masking", rows), Measurement("soundness", told)]


def disorder(accuracies: Mapping[str, float]) -> float:
    """Return by how much attacks that should be stronger leave more accuracy, at least 0."""
    pgd, fgsm, noise = (accuracies[k] for k in ("pgd", "fgsm", "random_signs"))
    return max(0.0, pgd - fgsm - TOLERANCE, fgsm - noise)


def _share(values: Tensor) -> float:
    return float(values.double().mean())
