"""Checks of settings."""

import math

import numpy as np
import pytest

from robust_npe.attacks import PGD, KLForward
from robust_npe.checks import (
    ConfigError,
    require_not_negative,
    require_positive,
    require_positive_integer,
    require_whole,
    require_widths,
)
from robust_npe.defenses import FIM, AdversarialTraining
from robust_npe.estimators import (
    MAF,
    MLP,
    NSF,
    DiagonalGaussian,
    FullGaussian,
    MixtureDensityNetwork,
    NflowsMAF,
    NflowsNSF,
    SbiMAF,
    SbiNSF,
)
from robust_npe.random import draws_from, stream
from robust_npe.tasks import GaussianLinear
from robust_npe.training import TrainingSettings


@pytest.mark.parametrize("value", [1, 10**12, np.int64(3)])
def test_positive_integers(value):
    require_positive_integer("steps", value)


@pytest.mark.parametrize("value", [0, -1, 1.0, 2.5, True, "3", None, float("nan"), np.float32(2)])
def test_others_are_told_in_one_line(value):
    with pytest.raises(ConfigError) as error:
        require_positive_integer("steps", value)
    assert str(error.value) == f"steps={value!r} is not valid: it must be a positive integer."


def test_null_where_it_is_allowed():
    require_positive_integer("rows", None, or_null=True)
    with pytest.raises(ConfigError, match=r"rows=0 .* a positive integer or null\.$"):
        require_positive_integer("rows", 0, or_null=True)


NO_NUMBERS = [True, "3", None, math.nan, math.inf, -math.inf, [1.0], -1]


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0])
def test_numbers_that_are_not_positive(value):
    with pytest.raises(ConfigError) as error:
        require_positive("std", value)
    assert str(error.value) == f"std={value!r} is not valid: it must be a positive number."


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_numbers_that_are_negative(value):
    for check, expected in ((require_not_negative, "a number"), (require_whole, "a whole number")):
        with pytest.raises(ConfigError, match=f" it must be {expected} that is not negative"):
            check("beta", value)


def test_numbers_of_any_type():
    for value in (1, 0.5, np.float32(2), np.int64(3)):
        require_positive("std", value)
        require_not_negative("std", value)
    for value in (0, np.int64(3)):
        require_whole("least", value)
        require_not_negative("least", value)
    for check in (require_positive, require_not_negative):
        check("std", None, or_null=True)
    with pytest.raises(ConfigError, match="whole number"):
        require_whole("least", 2.0)


@pytest.mark.parametrize("value", [True, "0.1", math.inf, math.nan])
@pytest.mark.parametrize(
    "make",
    [
        lambda value: FIM(beta=value),
        lambda value: AdversarialTraining(epsilon=value),
        lambda value: TrainingSettings(clip_norm=value),
        lambda value: TrainingSettings(checkpoint_every=value),
        lambda value: GaussianLinear(noise_std=value),
    ],
)
def test_settings_that_are_no_finite_numbers(make, value):
    with pytest.raises(ConfigError, match=r"is not valid: it must be a .*number"):
        make(value)


@pytest.mark.parametrize("value", [[2.5], [3, 0], [-1], [True], ["3"], 5, None, "33", []])
def test_widths(value):
    with pytest.raises(ConfigError, match=r"^hidden=.* a list of positive integers, at least 1\.$"):
        require_widths("hidden", value, least=1)
    require_widths("hidden", (3, np.int64(4)), least=1)
    require_widths("hidden", [])


LISTS = [MAF, NSF, DiagonalGaussian, FullGaussian, MixtureDensityNetwork, NflowsMAF, NflowsNSF]
COUNTS = [
    *[(flow, "transforms") for flow in (MAF, NSF, NflowsMAF, NflowsNSF, SbiMAF, SbiNSF)],
    *[(flow, "bins") for flow in (NSF, NflowsNSF, SbiNSF)],
    *[(flow, name) for flow in (SbiMAF, SbiNSF) for name in ("hidden", "blocks")],
    *[(flow, "passes") for flow in (MAF, NSF)],
]


@pytest.mark.parametrize("value", [[2.5], [100, 0], [-1, -1], [True, True]])
@pytest.mark.parametrize("estimator", LISTS)
def test_widths_of_estimators(estimator, value):
    with pytest.raises(ConfigError, match=r"^estimator\.hidden=.* a list of positive integers"):
        estimator(3, 4, hidden=value)


def test_widths_of_embeddings():
    with pytest.raises(ConfigError, match=r"^embedding\.hidden="):
        MLP(4, hidden=[2.5])


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
@pytest.mark.parametrize(("estimator", "name"), COUNTS)
def test_counts_of_estimators(estimator, name, value):
    with pytest.raises(ConfigError, match=rf"^estimator\.{name}=.* a positive integer"):
        estimator(3, 4, **{name: value})


def test_numpy_integers_count_bins():
    with draws_from(stream(0, "weights")):
        assert NflowsNSF(3, 4, bins=np.int64(2))


@pytest.mark.parametrize("name", ["batch_size", "max_epochs", "min_epochs", "patience"])
@pytest.mark.parametrize("value", [True, 2.5, -1])
def test_counts_of_training(name, value):
    with pytest.raises(ConfigError, match=rf"^training\.{name}=.* a (positive|whole) "):
        TrainingSettings(**{name: value})


def test_counts_of_attacks():
    with pytest.raises(ConfigError, match=r"^attack\.steps=10\.5 is not valid"):
        PGD(KLForward(), steps=10.5)
