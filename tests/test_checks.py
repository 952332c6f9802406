"""Checks of settings."""

import numpy as np
import pytest

from robust_npe.attacks import PGD, KLForward
from robust_npe.checks import ConfigError, require_positive_integer, require_widths
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
