"""Checks of settings."""

import numpy as np
import pytest

from robust_npe.attacks import PGD, KLForward
from robust_npe.checks import ConfigError, require_positive_integer
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


@pytest.mark.parametrize("name", ["batch_size", "max_epochs", "min_epochs", "patience"])
@pytest.mark.parametrize("value", [True, 2.5, -1])
def test_counts_of_training(name, value):
    with pytest.raises(ConfigError, match=rf"^training\.{name}=.* a positive integer"):
        TrainingSettings(**{name: value})


def test_counts_of_attacks():
    with pytest.raises(ConfigError, match=r"^attack\.steps=10\.5 is not valid"):
        PGD(KLForward(), steps=10.5)
