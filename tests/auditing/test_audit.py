from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal

import robust_npe as rn
from robust_npe.attacks import FGSM, CoverageBreaking, Noise, SurfaceNoise
from robust_npe.checks import ConfigError
from tests.auditing.common import (
    COVARIANCE,
    DESIGN,
    NOISE,
    PRIOR,
    QUICK,
    WEAK,
    exact,
    pairs,
    simulate,
    task,
)
from tests.helpers import gaussian_kl


def quick(posterior, x, theta=None, **settings):
    settings = {"settings": QUICK, "method": WEAK, **settings}
    return rn.audit(posterior, x, theta, **settings)


@pytest.fixture(scope="module")
def found():
    theta, x = pairs(6, seed=5)
    fine = replace(QUICK, num_scores=1000)
    return theta, x, quick(exact, x, theta, simulator=task(), settings=fine)


def test_divergences_shifts_and_quantiles_are_those_of_the_closed_form(found):
    theta, x, report = found
    table, summary = report.tables["attacks"], report.tables["posterior"]
    assert table.groupby(["attack", "epsilon"]).size().tolist() == [6] * 7
    clean = summary[summary.epsilon == 0]
    mean, sd = exact(x).mean, COVARIANCE.diagonal().sqrt()
    assert clean["mean"].to_numpy() == pytest.approx(mean.flatten().numpy(), abs=0.06)
    assert clean.sd.to_numpy() == pytest.approx(sd.repeat(6).numpy(), rel=0.3)
    assert clean.q95.to_numpy() == pytest.approx((mean + 1.645 * sd).flatten().numpy(), abs=0.12)
    nll = -exact(x).log_prob(theta)
    assert table[table.epsilon == 0].nll.tolist() == pytest.approx(nll.tolist(), rel=1e-4)
    changed = report.tables["x"]
    (i,) = changed.observation.unique()
    for epsilon in (0.25, 0.5, 1.0):
        rows = table[(table.epsilon == epsilon) & (table.attack == "pgd")]
        row = rows[rows.observation == i].iloc[0]
        x_adv = torch.tensor(changed[changed.epsilon == epsilon].value.to_numpy()).float()
        p, q = exact(x[i : i + 1]), exact(x_adv.unsqueeze(0))
        assert row.kl_forward == pytest.approx(gaussian_kl(p, q).item(), rel=1e-3)
        shift = ((q.mean - p.mean) / sd).norm().item()
        assert row.mean_shift == pytest.approx(shift, rel=0.2)
        assert row.distance <= epsilon * (1 + 1e-5)


def test_the_smallest_radius_and_the_direction_are_those_of_the_closed_form(found):
    _, _, report = found
    threat = report.tables["threat"]
    unit = torch.tensor(threat[threat.epsilon == 1.0].largest_move.to_numpy())
    gain = (DESIGN.mT / NOISE**2 @ COVARIANCE).double() * unit.unsqueeze(1)  # d mean / d x
    information = gain @ torch.linalg.inv(COVARIANCE.double()) @ gain.mT
    values = torch.linalg.eigvalsh(information)
    radius = (2 / values[-1]).sqrt().item()  # KL = r^2 lambda / 2
    table = report.tables["minimal_radius"]
    radii = table[table.criterion == "kl_forward"].radius
    assert radii.tolist() == pytest.approx([radius] * 2, rel=0.03)
    direction = report.tables["sensitivity"]
    first = direction[direction.observation == 0]
    along = first.component.to_numpy()
    assert np.linalg.norm(along) == pytest.approx(1)
    assert along @ information.numpy() @ along == pytest.approx(values[-1].item(), rel=0.03)
    share = (values[-1] / values.sum()).item()
    assert direction.groupby("observation").share.first().mean() == pytest.approx(share, abs=0.05)
    assert first.eigenvalue.iloc[0] == pytest.approx(values[-1].item(), rel=0.2)
    assert first.step.to_numpy() == pytest.approx(first.component * unit.numpy(), rel=1e-5)


def test_quality_is_measured_on_held_out_simulations(found):
    _, _, report = found
    clean = report.findings.clean
    theta, x = pairs(4000, seed=8)
    nll = -exact(x).log_prob(theta).mean().item()
    assert clean["nll"] == pytest.approx(nll, abs=0.3)
    assert clean["information"] == pytest.approx(
        -PRIOR.log_prob(theta).mean().item() - nll, abs=0.4
    )
    assert clean["coverage_error"] < 0.06
    assert clean["leakage"] == 0


def test_predictive_simulations_follow_what_the_posterior_was_given(found):
    table = found[2].tables["predictive"]
    for _, rows in table.groupby("epsilon"):
        mean = exact(torch.tensor(rows.given.to_numpy()).float().unsqueeze(0)).mean @ DESIGN
        assert rows.q50.to_numpy() == pytest.approx(mean[0].numpy(), abs=0.2)
        within = (rows.q05 <= rows.given) & (rows.given <= rows.q95)
        assert rows.inside.tolist() == within.tolist()
    clean = table[table.epsilon == 0]
    assert (clean.inside == clean.inside_clean).all()


def test_the_verdict_says_what_was_found(found):
    _, _, report = found
    assert len(report.tables["soundness"]) > 3
    assert not report.findings.flags
    moved = r"Perturbations up to the radius 1 move the posterior at 6 of 6 observations"
    assert report.verdict.startswith(moved)
    assert "nothing stands out" in report.verdict
    assert report.verdict.count(". ") == 1
    assert "auto" in report.unit


def test_a_posterior_that_ignores_x_is_called_useless():
    theta, x = pairs(400)

    def prior(x):
        return Independent(Normal(torch.zeros(len(x), 2) + 0 * x[:, :2], 1.0), 1)

    report = quick(prior, x[:2], simulations=(theta, x), prior=PRIOR)
    assert report.findings.clean["gain"] == 0
    assert report.findings.clean["information"] == pytest.approx(0, abs=1e-5)
    assert "robust but useless" in report.verdict
    assert "No perturbation that was tried" in report.verdict
    assert "not a proof" in report.verdict
    assert report.tables["sensitivity"].share.isna().all()
    assert math.isinf(report.findings.radius)


def test_a_posterior_that_is_too_narrow_and_leaks_is_called_so():
    low, high = [-0.5, -0.5], [0.5, 0.5]

    def wrong(x):
        q = exact(x)
        return Independent(Normal(q.mean + 0.5, 0.05), 1)

    task = rn.tasks.FunctionTask(simulate, low=low, high=high)
    report = quick(wrong, pairs(2)[1], simulator=task)
    assert "too narrow" in report.verdict
    assert "% of the posterior is outside of the prior" in report.verdict


def test_unusual_observations_are_named():
    x = pairs(1)[1] + 9 * NOISE
    report = quick(exact, x[0], simulator=task())
    assert "the observation looks unlike the training simulations (p < 0.01)" in report.verdict
    assert any("unusual" in text for text, _ in report.next_steps)
    few = quick(exact, x[0], simulator=task(), settings=replace(QUICK, num_held_out=50))
    beyond = "the observation is further out than all held-out simulations, by at least one check"
    assert f"{beyond}; 50 held-out simulations are too few to call one unusual" in few.verdict
    usual = quick(exact, pairs(1)[1][0], simulator=task(), settings=replace(QUICK, num_held_out=50))
    assert "further out" not in usual.verdict
    (theta, x), absolute = pairs(24), {"epsilon": 0.1, "epsilon_unit": "absolute"}
    fewer = quick(exact, 1e3 * x[0], simulations=(theta, x), **absolute)
    assert "nothing is known about whether the observations look like simulations" in fewer.verdict


def test_noise_is_the_same_beside_an_attack_and_alone():
    x = pairs(3)[1]
    tables = [
        quick(exact, x, epsilon=0.3, epsilon_unit="absolute", method=method).tables["attacks"]
        for method in (WEAK, Noise())
    ]
    first, second = (table[table.attack == "noise"].kl_forward.tolist() for table in tables)
    assert first == second
    signs = quick(exact, x, epsilon=0.3, epsilon_unit="absolute", method=SurfaceNoise())
    attacks = signs.tables["attacks"]
    assert attacks[attacks.attack == "noise"].kl_forward.tolist() == first
    assert len(attacks[attacks.attack == "surface_noise"]) == len(first)


def test_a_radius_below_the_resolution_of_x_is_flagged():
    """1e-3 at 1e6: float32 has steps of 0.06 there."""
    x = 1e6 + pairs(2)[1]
    settings = {"epsilon_unit": "absolute", "method": WEAK}
    far = quick(lambda x: exact(x - 1e6), x, epsilon=[1e-3, 10.0], **settings)
    table = far.tables["soundness"]
    assert table[table.statistic == "unresolved"][["epsilon", "value"]].values.tolist() == [
        [1e-3, 1.0]
    ]
    assert "unresolved) say that the attack may have missed much" in far.verdict
    near = quick(exact, x - 1e6, epsilon=[1e-3, 10.0], **settings).tables["soundness"]
    assert "unresolved" not in set(near.statistic)


def test_without_simulations_the_radius_must_be_given(tmp_path):
    x = pairs(2)[1]
    with pytest.raises(ConfigError, match="epsilon_unit=auto needs simulator or simulations"):
        quick(exact, x)
    report = quick(exact, x, epsilon=0.1, epsilon_unit="absolute")
    assert report.tables["quality"].empty
    assert "as there are no simulations" in report.verdict
    page = (report.save(tmp_path) / "audit.html").read_text()
    assert page.count("Not measured") == 2


@pytest.mark.parametrize("posterior", ["scalar", "one feature", "hundred features"])
def test_other_shapes(posterior, tmp_path):
    if posterior == "scalar":
        report = quick(
            lambda x: Categorical(logits=x @ torch.eye(3, 4)),
            torch.zeros(2, 3),
            epsilon=[0.1, 1],
            epsilon_unit="absolute",
        )
    elif posterior == "one feature":
        line = rn.tasks.GaussianLinear([1.0], 0.3)
        report = quick(line.true_posterior, [0.4], simulator=line)
        assert len(report.tables["threat"]) == 3
    else:
        theta, x = pairs(300)
        wide = torch.cat([x, 0.1 * torch.randn(300, 94, generator=torch.Generator())], 1)
        report = quick(lambda x: exact(x[:, :6]), wide[:3], simulations=(theta[3:], wide[3:]))
        assert "neighbours" in report.unit
    report.save(tmp_path)
    assert pd.read_csv(tmp_path / "attacks.csv").kl_forward.notna().all()


OF_PAIRS = {"simulator": None, "simulations": (torch.ones(20, 2), torch.ones(20, 6))}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(2, 5)}, "x has 5 features, the simulations have 6"),
        ({"x": torch.full((3, 6), math.nan)}, "not finite in 3 of 3 rows, first in row 1"),
        ({"x": [["a"]]}, "x is no array of numbers"),
        ({"theta": torch.zeros(3, 2)}, r"shape of theta=\(3, 2\)"),
        ({"epsilon": 0}, "epsilon="),
        ({"epsilon": -1}, "epsilon=-1"),
        ({"norm": "l3"}, "norm='l3'"),
        ({"prior": PRIOR}, "a task has its own prior and names"),
        ({"posterior": 3}, "posterior=builtins.int is not valid"),
        ({"posterior": lambda x: x}, "must be a torch distribution"),
        ({"method": FGSM(CoverageBreaking())}, "give theta"),
        ({"settings": 3}, "settings=3 is not valid: it must be an object of class AuditSettings"),
        ({"method": "pgd"}, "method='pgd' is not valid: it must be an object of class Attack"),
        ({"simulations": 3}, "simulations='int' is not valid: it must be a pair"),
        (OF_PAIRS | {"x_names": ["a"]}, r"^x_names=\['a'\] is not valid: it must be 6"),
        (OF_PAIRS | {"theta_names": ["a"]}, "^theta_names="),
        ({"simulations": (torch.ones(9, 2), torch.ones(8, 6))}, r"^simulations\[0\] has the shape"),
        ({"simulator": simulate}, "^prior=None is not valid: it must be a distribution, as"),
        (
            {"simulator": lambda theta: simulate(theta)[:1], "prior": PRIOR},
            r"needs simulator=rn\.tasks\.FunctionTask\(\.\.\., vectorized=False\)",
        ),
        ({"posterior": {"weight": torch.ones(2)}}, r"keep it by rn\.save_posterior\(net"),
        ({"settings": replace(QUICK)}, None),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(change, message):
    arguments = {"posterior": exact, "x": pairs(2)[1], "simulator": task(), **change}
    if message is None:
        with pytest.raises(ConfigError, match=r"audit\.num_samples=1"):
            replace(QUICK, num_samples=1)
        return
    with pytest.raises(rn.ConfigError, match=message) as error:
        quick(**arguments)
    assert "\n" not in str(error.value)


def test_equal_seeds_give_equal_tables():
    x = pairs(2)[1]
    first, second, other = (quick(exact, x, simulator=task(), seed=s) for s in (0, 0, 1))
    for name, table in first.tables.items():
        pd.testing.assert_frame_equal(table, second.tables[name])
    assert not first.tables["attacks"].equals(other.tables["attacks"])
