"""What an audit does not know, it does not say."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

import robust_npe as rn
from robust_npe.attacks import Found, Noise, ThreatModel
from robust_npe.auditing.preparing import Given, prepare
from robust_npe.auditing.quality import quality
from robust_npe.checks import ConfigError
from tests.auditing.common import COVARIANCE, PRIOR, QUICK, WEAK, exact, pairs


def quick(posterior, x, theta=None, **settings):
    settings = {"settings": QUICK, "method": WEAK, **settings}
    return rn.audit(posterior, x, theta, **settings)


def test_without_a_prior_nothing_is_said_about_what_lies_outside_of_it(tmp_path):
    theta, x = pairs(60)
    unknown = quick(exact, x[:2], simulations=(theta, x))
    known = quick(exact, x[:2], simulations=(theta, x), prior=PRIOR)
    for report, told in ((unknown, False), (known, True)):
        assert ("leakage" in set(report.tables["quality"].metric)) == told
        assert ("leakage" in report.tables["attacks"]) == told
        page = (report.save(tmp_path) / "audit.html").read_text()
        assert ("mass outside of the prior" in page) == told
        assert ("outside of the prior (%)" in page) == told


def test_simulations_of_other_parameters_are_refused():
    theta, x = pairs(60)
    fewer = (theta[:, :1], x)
    with pytest.raises(
        ConfigError, match=r"the posterior has \d parameters, the simulations have 1"
    ):
        quick(exact, x[:2], simulations=fewer)


def test_noise_is_as_large_as_the_radius():
    attacks = quick(exact, pairs(5)[1], epsilon=0.3, epsilon_unit="absolute").tables["attacks"]
    distances = attacks[attacks.attack == "noise"].distance.to_numpy()
    assert distances == pytest.approx(0.3, rel=1e-3)


def test_a_radius_that_is_lost_in_rounding_is_no_test():
    x = 1e6 + pairs(2)[1]
    report = quick(lambda x: exact(x - 1e6), x, epsilon=1e-3, epsilon_unit="absolute")
    assert report.verdict.startswith("Nothing was tested: perturbations up to the radius 0.001")


def test_shifts_are_not_known_where_float32_has_no_digits_for_the_spread():
    def sharp(x):
        return Independent(Normal(x[:, :1] + 1e4, torch.full_like(x[:, :1], 1e-7)), 1)

    x = pairs(2)[1]
    attacks = quick(sharp, x, epsilon=0.3, epsilon_unit="absolute").tables["attacks"]
    assert attacks[attacks.epsilon > 0].mean_shift.isna().all()


@pytest.mark.parametrize("known", ["nothing", "posterior", "bounds"])
def test_bounds_are_those_that_were_given_or_those_of_the_posterior(known):
    """Posteriors of sbi bring their prior along."""

    class Sharp:
        def __call__(self, x):
            return Independent(Normal(5.0 + 0 * x[:, :2], 0.1), 1)

    theta, x = pairs(60)
    posterior, bounds = Sharp(), {}
    if known == "posterior":
        posterior.prior = Independent(Uniform(-4 * torch.ones(2), 4 * torch.ones(2)), 1)
    if known == "bounds":
        bounds = {"low": [-4.0, -4.0], "high": [4.0, 4.0]}
    data = rn.tasks.DataTask(theta, x, **bounds)
    for task in (data, None):
        given = Given(posterior, x, task=task, simulations=data)
        case = prepare(given, ThreatModel(), 0.1, QUICK, 0)
        assert case.task.knows_support == (known != "nothing")
        rows = quality(case, QUICK).set_index(["metric", "statistic"]).value
        assert rows.get(("leakage", "mean")) == (None if known == "nothing" else 1.0)


@pytest.mark.parametrize("broken", [1.0, 0.5])
def test_of_a_posterior_that_is_not_a_number_nothing_else_is_said(broken, tmp_path):
    """The worst of posteriors, not the narrowest, nor one that ignores x or leaks."""
    theta, x = pairs(500)
    edge = x[:, 0].quantile(1 - broken)

    def posterior(x):
        mean = torch.where((x[:, :1] >= edge) | (broken == 1), torch.nan, exact(x).mean)
        return MultivariateNormal(mean, COVARIANCE, validate_args=False)

    chosen = x[x[:, 0].argsort()][[0, 1, -1]]  # the last one is far within what is broken
    report = quick(posterior, chosen, simulations=(theta, x), prior=PRIOR)
    words, clean = report.verdict, report.findings.clean
    share = clean["no_density"]
    assert share == 1 if broken == 1 else 0.3 < share < 0.7
    assert f"{100 * share:.3g} % of the held-out simulations have no density (NaN)" in words
    for claim in ("useless", "narrow", "wide", "outside of the prior"):
        assert claim not in words
    if broken == 1:
        assert set(clean) == {"no_density"}
        assert words.startswith("Whether perturbations up to the radius 4 move the posterior")
        assert "flag" not in words
    else:
        assert "the posterior at 2 of 3 observations" in words
        assert "at 1 it is not known: densities or samples are NaN there" in words
        assert clean["leakage"] == 0
        assert clean["coverage_error"] < 0.1
    assert report.tables["minimal_radius"].radius.isna().all() == (broken == 1)
    page = (report.save(tmp_path) / "audit.html").read_text()
    assert "simulations without a density" in page


class Asleep(Noise):
    """An attack that goes a hundredth of the way that noise goes."""

    name = "asleep"

    def search(self, posterior, x, theta, ball, generator):
        drawn = super().search(posterior, x, theta, ball, generator).x_adv
        return Found(x + 0.01 * (drawn - x))


def test_an_attack_weaker_than_noise_is_not_believed(tmp_path):
    absolute = {"epsilon": 0.5, "epsilon_unit": "absolute"}
    report = quick(exact, pairs(5)[1], method=Asleep(), **absolute)
    table, rows = report.tables["attacks"], report.tables["soundness"]
    medians = table[table.epsilon > 0].groupby("attack")[["kl_forward", "mean_shift"]].median()
    values = rows.set_index("statistic").value
    worst = (medians.loc["noise"] / medians.loc["asleep"]).max()
    assert values["noise"] == pytest.approx(worst)
    assert worst > 10
    assert values["flagged"] >= 1
    assert "random noise moves the posterior further than the attack" in report.verdict
    sentence = "Flag noise, at epsilon 0.5: random noise of the same size moves the posterior"
    assert sentence in str(report)
    assert sentence in (report.save(tmp_path) / "audit.html").read_text()
    assert any("stronger attack" in text for text, _ in report.next_steps)
    strong = quick(exact, pairs(5)[1], **absolute)
    assert strong.tables["soundness"].set_index("statistic").value["noise"] < 1
    assert "noise" not in strong.findings.flags


def test_a_radius_too_small_for_float32_is_explained(tmp_path):
    report = quick(exact, pairs(2)[1], epsilon=1e-12, epsilon_unit="absolute")
    sentence = "Flag unresolved, at epsilon 1e-12: float32 hardly tells the ball from its centre"
    assert sentence in str(report)
    assert sentence in (report.save(tmp_path) / "audit.html").read_text()
    assert "unresolved) say that the attack may have missed much" in report.verdict
    assert not any("stronger attack" in text for text, _ in report.next_steps)


def test_a_posterior_that_moves_is_not_called_robust_where_it_is_useless():
    """What it says depends on x, and is wrong: not on the first features, which matter."""
    theta, x = pairs(1000)
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    wide = torch.cat([x, noise], 1)

    def posterior(x):
        return Independent(Normal(0.3 * x[:, 6:], 1.0), 1)

    absolute = {"epsilon": 10.0, "epsilon_unit": "absolute"}
    report = quick(posterior, wide[:2], simulations=(theta, wide), **absolute)
    assert "another x serves the posterior as well: it is useless" in report.verdict
    assert "robust" not in report.verdict
