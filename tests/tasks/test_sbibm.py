import importlib.util
import math
import sys

import pytest
import torch
from scipy.stats import t
from torch.distributions import Binomial, MultivariateNormal

from robust_npe.random import stream
from robust_npe.tasks.distractors import Distractors
from robust_npe.tasks.sbibm import SBIBM, SBIBM_TASKS

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("sbibm") is None, reason="needs the extra sbibm"
)


def weighted_moments(samples, log_weights):
    """Mean, standard deviation and relative effective size of weighted samples."""
    weights = torch.softmax(log_weights, 0)
    mean = weights @ samples
    spread = (weights @ (samples - mean) ** 2).sqrt()
    return mean, spread, float(1 / (weights**2).sum() / len(weights))


@pytest.mark.parametrize("name", SBIBM_TASKS)
def test_interface(name):
    task = SBIBM(name)
    theta = task.sample_prior(64, stream(0))
    x = task.simulate(theta, stream(1))
    assert task.name == f"sbibm/{name}"
    assert x.shape == (64, task.dim_x)
    assert x.dtype == torch.float32
    assert torch.isfinite(x).all()
    assert torch.equal(x, task.simulate(theta, stream(1)))
    assert not torch.equal(x, task.simulate(theta, stream(2)))
    assert len(task.theta_names) == task.dim_theta
    assert len(set(task.x_names)) == task.dim_x
    assert task.log_likelihood(theta[:3, None], x).shape == (3, 64)
    if task.domain is not None:
        low, high = task.domain
        assert ((x >= low - 1e-5) & (x <= high + 1e-5)).all()


@pytest.mark.parametrize("name", SBIBM_TASKS)
def test_references_are_complete_and_inside_the_prior(name):
    task = SBIBM(name)
    for i in (1, task.num_references):
        reference = task.reference(i)
        assert reference.x.shape == (task.dim_x,)
        assert reference.theta.shape == (task.dim_theta,)
        assert reference.samples.shape == (10_000, task.dim_theta)
        assert task.prior.support.check(reference.samples).all()
    for i in (0, 11):
        with pytest.raises(ValueError, match="1 to 10"):
            task.reference(i)


@pytest.mark.parametrize("name", SBIBM_TASKS)
def test_likelihood_is_that_of_the_simulator(name):
    """E[p(x|near) / p(x|theta)] = 1 over x simulated from theta, for any pair of parameters."""
    task = SBIBM(name)
    theta = task.reference(2).theta.double()
    direction = torch.randn(task.dim_theta, generator=stream(5), dtype=torch.float64)
    x = task.simulate(theta.expand(4000, -1), stream(1))
    step, spread = 1e-5, 0.0
    while spread < 0.05:  # near enough for a small variance, far enough to mean something
        step *= 1.5
        near = theta + step * direction * theta.abs().clamp(min=0.1)
        ratio = (task.log_likelihood(near, x) - task.log_likelihood(theta, x)).exp()
        spread = float(ratio.std())
    assert spread < 0.5
    assert float(ratio.mean()) == pytest.approx(1, abs=4 * spread / len(x) ** 0.5)


@pytest.mark.parametrize("name", ["sir", "lotka_volterra", "bernoulli_glm", "bernoulli_glm_raw"])
@pytest.mark.parametrize("i", [1, 5, 8])
def test_importance_sampled_posterior_is_the_stored_one(name, i):
    task = SBIBM(name)
    reference = task.reference(i)
    log_scale = name in ("sir", "lotka_volterra")
    points = (reference.samples.log() if log_scale else reference.samples).double()
    proposal = MultivariateNormal(points.mean(0), 1.5 * points.T.cov())
    noise = torch.randn(4000, task.dim_theta, generator=stream(i), dtype=torch.float64)
    draws = proposal.mean + noise @ proposal.scale_tril.T
    theta = draws.exp() if log_scale else draws
    log_weights = (
        task.prior.log_prob(theta).double()
        + (draws.sum(-1) if log_scale else 0)
        + task.log_likelihood(theta, reference.x)
        - proposal.log_prob(draws)
    )
    mean, spread, effective = weighted_moments(draws, log_weights)
    assert effective > 0.1
    assert ((mean - points.mean(0)).abs() < 0.15 * points.std(0)).all()
    assert ((spread / points.std(0)).log().abs() < 0.12).all()


@pytest.mark.parametrize("name", ["two_moons", "gaussian_mixture"])
def test_posterior_on_a_grid_is_the_stored_one(name):
    task = SBIBM(name)
    reference = task.reference(3)
    samples = reference.samples.double()
    low, high = samples.amin(0) - 0.05, samples.amax(0) + 0.05
    axes = [torch.linspace(float(a), float(b), 1500) for a, b in zip(low, high, strict=True)]
    theta = torch.cartesian_prod(*axes).double()
    inside = task.prior.support.check(theta)
    log_weights = task.log_likelihood(theta, reference.x).masked_fill(~inside, -torch.inf)
    mean, spread, _ = weighted_moments(theta, log_weights)
    assert ((mean - samples.mean(0)).abs() < 0.05 * samples.std(0)).all()
    assert ((spread / samples.std(0)).log().abs() < 0.05).all()


def test_slcp_posterior_is_the_stored_one_with_and_without_distractors():
    task, distracted = SBIBM("slcp"), SBIBM("slcp_distractors")
    reference = task.reference(1)
    centres = reference.samples.double()[:4000]
    width = 0.1 * centres.std(0)
    noise = torch.randn(4000, 5, generator=stream(0), dtype=torch.float64)
    theta = centres + width * noise
    scaled = torch.cdist(theta / width, centres / width) ** 2
    log_proposal = torch.logsumexp(-0.5 * scaled, -1)
    inside = task.prior.support.check(theta)
    for which in (task, distracted):
        log_weights = which.log_likelihood(theta, which.reference(1).x) - log_proposal
        log_weights = log_weights.masked_fill(~inside, -torch.inf)
        mean, spread, effective = weighted_moments(theta, log_weights)
        assert effective > 0.02
        assert ((mean - centres.mean(0)).abs() < 0.2 * centres.std(0)).all()
        assert ((spread / centres.std(0)).log().abs() < 0.2).all()


def test_gaussian_linear_posterior_is_exact():
    task = SBIBM("gaussian_linear")
    reference = task.reference(1)
    posterior = task.true_posterior(reference.x[None])
    assert posterior.batch_shape == (1,)
    error = reference.samples.mean(0) - posterior.mean[0]
    assert float(error.abs().max()) < 0.02
    ratio = reference.samples.std(0) / posterior.stddev[0]
    assert float((ratio - 1).abs().max()) < 0.03
    assert task.knows("true_posterior")


def test_other_tasks_know_no_closed_form_posterior():
    task = SBIBM("two_moons")
    assert not task.knows("true_posterior")
    assert task.knows("log_likelihood")
    with pytest.raises(NotImplementedError, match="two_moons"):
        task.true_posterior(torch.zeros(1, 2))


def test_two_moons_density_integrates_to_one():
    task = SBIBM("two_moons")
    line = torch.linspace(-0.2, 0.6, 1601, dtype=torch.float64)
    x = torch.cartesian_prod(line, line - 0.2)
    density = task.log_likelihood(torch.zeros(2), x).exp()
    assert float(density.sum() * (line[1] - line[0]) ** 2) == pytest.approx(1, abs=0.002)


def test_slcp_density_is_a_product_of_gaussians():
    task = SBIBM("slcp")
    theta = task.sample_prior(20, stream(0)).double()
    x = task.simulate(theta, stream(1)).double()
    s1, s2, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, torch.tanh(theta[:, 4])
    entries = [s1**2 + 1e-6, rho * s1 * s2, rho * s1 * s2, s2**2 + 1e-6]
    covariance = torch.stack(entries, -1).unflatten(-1, (2, 2))
    expected = MultivariateNormal(theta[:, None, :2], covariance[:, None]).log_prob(
        x.unflatten(-1, (4, 2))
    )
    torch.testing.assert_close(task.log_likelihood(theta, x), expected.sum(-1))


def test_sir_density_is_binomial():
    task = SBIBM("sir")
    theta = task.sample_prior(20, stream(0)).double()
    x = task.simulate(theta, stream(1)).double()
    expected = Binomial(1000, probs=task.model._fraction(theta)).log_prob(x).sum(-1)
    torch.testing.assert_close(task.log_likelihood(theta, x), expected)
    assert torch.isinf(task.log_likelihood(theta, x - 1001)).all()


def test_stored_distractors_are_shuffled_and_drawn_as_rebuilt():
    task, plain = SBIBM("slcp_distractors"), SBIBM("slcp")
    for i in range(1, 11):
        original = task.reference(i).x[task.model.order.argsort()]
        torch.testing.assert_close(original[:8], plain.reference(i).x)
    noise = task.model.noise
    # entries of the pickled object that sbibm carries
    assert float(noise.location[0, 0]) == pytest.approx(7.45071229516849)
    assert float(noise.factor[19, 91, 90]) == pytest.approx(2.446532061161765)
    assert float(noise.factor[19, 91, 91]) == pytest.approx(2.196350891048934)


def test_stored_statistics_are_those_of_the_stored_spikes():
    task, raw = SBIBM("bernoulli_glm"), SBIBM("bernoulli_glm_raw")
    for i in range(1, 11):
        spikes = raw.reference(i).x.double()
        torch.testing.assert_close((spikes @ raw.model.design).float(), task.reference(i).x)
        theta = task.sample_prior(5, stream(i))
        torch.testing.assert_close(
            raw.log_likelihood(theta, spikes),
            task.log_likelihood(theta, spikes @ raw.model.design),
        )


def test_distractors_against_scipy_in_one_dimension():
    location = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    factor = torch.tensor([[[0.5]], [[-2.0]]], dtype=torch.float64)
    draws = Distractors(location, factor).sample(20_000, stream(0))[:, 0]
    for edge in (-2.0, 0.0, 3.0):
        below = (t.cdf(edge, 2, -1, 0.5) + t.cdf(edge, 2, 2, 2)) / 2
        assert float((draws < edge).double().mean()) == pytest.approx(below, abs=0.012)


def test_failed_solutions_are_nan_and_impossible():
    task = SBIBM("lotka_volterra")
    theta = torch.tensor([[1e4, 1e-9, 1.0, 1e-9], [0.9, 0.05, 0.9, 0.05]])
    x = task.simulate(theta, stream(0))
    assert torch.isnan(x[0]).any()
    assert torch.isfinite(x[1]).all()
    assert task.log_likelihood(theta, x[1]).tolist()[0] == -math.inf


def test_unknown_name_lists_the_choices():
    with pytest.raises(ValueError, match="two_moons"):
        SBIBM("two_suns")


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("robust_npe.tasks.sbibm.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'robust-npe\[sbibm\]'"):
        SBIBM("two_moons")


def test_nothing_of_the_package_is_imported():
    before = "sbibm" in sys.modules
    SBIBM("sir").reference(1)
    assert ("sbibm" in sys.modules) == before


@pytest.mark.parametrize("name", ["two_moons", "slcp"])
def test_plot(name, axes):
    task = SBIBM(name)
    task.plot(axes, task.reference(1).x)
    assert len(axes.lines) == 1
