"""Warnings about attacks that see no gradient, and the short table."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch import nn

from robust_npe.commands.evaluation import evaluate
from robust_npe.commands.experiment import Experiment, Trained
from robust_npe.commands.summary import summary
from tests.helpers import Exact
from tests.test_config import composed


class Rounded(nn.Module):
    """A posterior behind a layer that rounds, and so hides its gradient."""

    name = "rounded"

    def __init__(self, posterior, digits):
        super().__init__()
        self.posterior = posterior
        self.digits = digits

    def forward(self, x):
        seen = x if self.digits is None else torch.round(x, decimals=self.digits)
        return self.posterior(seen)


@pytest.mark.parametrize(("digits", "told"), [(1, True), (None, False)])
def test_attacks_that_see_no_gradient_are_told(tmp_path, digits, told):
    small = ("scale=smoke", "attack.steps=5", "epsilon=[0,0.5,1]", "metric=[divergence]")
    experiment = Experiment(composed(*small, f"output_dir={tmp_path}"))
    artefact = SimpleNamespace(manifest={"facts": {"diverged": False}})
    trained = Trained(Rounded(Exact(experiment.task), digits), "exact", [artefact])
    folder = tmp_path / "run"
    folder.mkdir()
    table = evaluate(experiment, trained, "0", folder)
    warning = "attack saw no gradient in 100 % of its steps: the result is a lower bound"
    assert summary(table).count(warning) == told  # once, not for each radius
    assert "nan" not in summary(table).split("medians")[1]


COLUMNS = {
    "task": "sir",
    "estimator": "maf",
    "defense": "none",
    "beta": None,
    "attack": "pgd",
    "level": None,
}


def table(*rows):
    names = ("epsilon", "metric", "statistic", "value")
    clean = {
        **COLUMNS,
        **dict(zip(names, (0.0, "nll", "mean", 1.5), strict=True)),
        "attack": "none",
    }
    return pd.DataFrame([clean, *(COLUMNS | dict(zip(names, row, strict=True)) for row in rows)])


def printed(*rows):
    """Words of the short table, by radius."""
    body = summary(table(*rows)).splitlines()[3:]
    return {line.split()[0]: line.split(maxsplit=1)[1].strip() for line in body[1:]}


def test_medians_within_two_standard_errors_of_zero_are_below_resolution():
    rows = [
        (epsilon, "kl_forward", statistic, value)
        for epsilon, median in ((0.1, 0.0015), (0.2, -0.0015), (0.5, 0.0025), (1.0, -0.0025))
        for statistic, value in (("median", median), ("median_se", 0.001))
    ]
    expected = {"0.1": "<0.002", "0.2": "<0.002", "0.5": "0.0025", "1.0": "<0.0025"}
    assert expected.items() <= printed(*rows).items()
    assert "two standard errors" in summary(table(*rows))
    exact = [(0.1, "kl_forward", "median", 0.0), (0.1, "kl_forward", "median_se", 0.0)]
    assert printed(*exact)["0.1"] == "0"
    assert "two standard errors" not in summary(table(*exact))


def test_the_share_that_is_not_finite_is_shown_where_there_is_any():
    rows = [
        (0.5, "kl_forward", "median", float("nan")),
        (0.5, "kl_forward", "nonfinite_fraction", 0.625),
        (0.5, "nll", "nonfinite_fraction", 0.125),
        (1.0, "kl_forward", "median", float("inf")),
        (1.0, "kl_forward", "nonfinite_fraction", 0.0),
    ]
    assert "not finite" in summary(table(*rows))
    assert printed(*rows)["0.5"].split(maxsplit=1) == ["nan", "62.5 % of kl_forward"]
    assert printed(*rows)["1.0"].split() == ["inf", "-"]
    assert "not finite" not in summary(table(*rows[3:]))


def known(epsilon, spread, median=1.0, error=0.001, number=512):
    statistics = {
        "median": median,
        "median_se": error,
        "median_spread": spread,
        "num_observations": number,
    }
    return [(epsilon, "kl_forward", name, value) for name, value in statistics.items()]


def test_how_well_a_median_is_known_and_what_it_would_take():
    text = summary(table(*known(0.5, 0.02), *known(1.0, 0.066), *known(2.0, 0.06)))
    line = (
        "the median KL(q||q~) of 512 observations is known to within 6.6 % (sd) at epsilon 1.0: "
        "evaluation.num_attacked=1024 for 5 %"  # 512 (6.6 / 5)^2 = 892
    )
    assert line in text.splitlines()
    assert "known to within" not in summary(table(*known(0.5, 0.02), *known(1.0, 0.05)))
    # more observations do not help where the estimates are noise, or infinite
    assert "known to within" not in summary(table(*known(0.5, 0.9, median=0.001)))
    assert "known to within" not in summary(table(*known(0.5, float("nan"), float("inf"))))


def test_the_share_without_overlap_is_shown_where_there_is_any():
    rows = [
        (epsilon, "kl_forward", statistic, value)
        for epsilon, share in ((0.5, 0.0), (2.0, 0.9))
        for statistic, value in (("median", 100 * epsilon), ("no_overlap", share))
    ]
    assert printed(*rows)["2.0"].split(maxsplit=1) == ["200", "90 % of kl_forward"]
    assert "the share above 30 nats" in summary(table(*rows))
    assert "no overlap" not in summary(table(*rows[:2]))


def test_metrics_that_are_off_by_default_have_columns():
    found = table(
        (0.5, "sbc", "ks_p_value", 0.9),
        (0.5, "sbc", "ks_p_value", 0.4),
        (0.5, "detectability_classifier", "auroc", 0.75),
    )
    found["level"] = [None, 1.0, None, None]  # of a parameter; of all
    lines = summary(found).splitlines()
    assert "SBC p-value" in lines[2]
    assert "AUROC of classifier" in lines[2]
    assert lines[-1].split() == ["0.5", "0.4", "0.75"]


def test_without_a_number_for_each_radius_there_is_no_table():
    found = table().assign(metric="minimal_radius_kl_forward", statistic="median", value=0.47)
    assert summary(found).splitlines() == [
        "sir, maf, defense none: median minimal radius (kl_forward) 0.470"
    ]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, False),
        ({"diverged": False, "validation_loss": [2.0, 1.0]}, False),
        ({"diverged": False, "validation_loss": [2.0, math.inf, 1.0]}, True),  # and went on
        ({"diverged": True, "validation_loss": [2.0]}, True),
    ],
)
def test_a_training_that_diverged_is_told_even_if_it_went_on(facts, expected):
    artefacts = [SimpleNamespace(manifest={"facts": f}) for f in ({"diverged": False}, facts)]
    assert Trained(None, "maf", artefacts).diverged is expected
