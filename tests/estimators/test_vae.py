"""The variational autoencoder: likelihood, evidence lower bound, training."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from scipy.integrate import quad
from torch.distributions import ContinuousBernoulli, Normal
from torch.nn.functional import binary_cross_entropy

from robust_npe.checks import ConfigError
from robust_npe.defenses import FIM, NoDefense
from robust_npe.encoders import Encoder
from robust_npe.estimators import Estimator, Identity, VariationalAutoencoder
from robust_npe.estimators.vae import log_normalizer, pixel_mean
from robust_npe.fisher import fisher_trace
from robust_npe.random import draws_from, stream
from robust_npe.tasks import DigitImages
from robust_npe.training import TrainingSettings, train

SMALL = {"hidden": (32,), "decoder": (32,)}


def fresh(latent=4, task=None, **settings):
    task = task or DigitImages(latent)
    head = partial(VariationalAutoencoder, **(SMALL | settings))
    with draws_from(stream(0)):
        return Estimator.for_task(task, head, Identity, "none")


def digits(split="train", latent=4):
    return DigitImages(latent).stored_pairs(split, 0, slice(0, 400))


def trained(defense, **settings):
    estimator = fresh(**settings)
    schedule = TrainingSettings(batch_size=32, learning_rate=3e-3, max_epochs=25)
    train(estimator, defense, digits(), digits("validation"), schedule, stream(0))
    return estimator


@pytest.fixture(scope="module")
def plain():
    return trained(NoDefense())


def test_pixels_are_continuous_bernoulli_variables():
    logits = torch.linspace(-12, 12, 1001, dtype=torch.float64)
    x = torch.rand(1001, generator=stream(0), dtype=torch.float64)
    peer = ContinuousBernoulli(logits=logits)
    own = x * logits - log_normalizer(logits)
    torch.testing.assert_close(own, peer.log_prob(x), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(pixel_mean(logits), peer.mean, rtol=1e-5, atol=1e-5)
    for logit in (-60.0, 1e-3, 25.0):  # where torch clips
        density = partial(_density, logit)
        assert quad(density, 0, 1, points=[0.5])[0] == pytest.approx(1, abs=1e-5)
        mean = quad(lambda t, f=density: t * f(t), 0, 1, points=[0.5])[0]
        assert float(pixel_mean(torch.tensor(logit))) == pytest.approx(mean, abs=1e-5)


def test_the_other_likelihood_is_the_cross_entropy():
    estimator = fresh(likelihood="bernoulli")
    z, (_, x) = torch.randn(5, 4, generator=stream(0)), digits()
    logits = estimator.head.decoder(z)
    expected = -binary_cross_entropy(logits.sigmoid(), x[:5], reduction="none").sum(-1)
    torch.testing.assert_close(estimator.head.log_likelihood(x[:5], z), expected)
    torch.testing.assert_close(estimator.head.decode(z), logits.sigmoid())
    assert estimator.name == "vae(likelihood=bernoulli)"
    assert (
        fresh(kl_weight=2.0, likelihood="bernoulli").name == "vae(kl_weight=2,likelihood=bernoulli)"
    )


def _density(logit, x):
    value = torch.tensor(logit, dtype=torch.float64)
    return float((x * value - log_normalizer(value)).exp())


def test_gradients_are_finite_everywhere():
    logits = torch.tensor([0.0, 1e-30, -1e-4, 0.05, 80.0, -1e4], requires_grad=True)
    for function in (log_normalizer, pixel_mean):
        (slope,) = torch.autograd.grad(function(logits).sum(), logits)
        assert slope.isfinite().all()
    (slope,) = torch.autograd.grad(log_normalizer(logits).sum(), logits)
    torch.testing.assert_close(slope, pixel_mean(logits).detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_loss_is_the_negative_evidence_lower_bound(weight):
    # one latent variable: expectations, KL and evidence are integrals over a grid
    estimator = fresh(latent=1, kl_weight=weight)
    _, x = digits(latent=1)
    x = x[:5]
    z = torch.linspace(-8, 8, 4001)[:, None, None]
    with torch.no_grad():
        q = estimator(x).base
        log_q, log_p = q.log_prob(z), estimator.head.log_likelihood(x, z)
        log_prior = Normal(0.0, 1.0).log_prob(z).squeeze(-1)
        width, density = 16 / 4000, log_q.exp()
        expected = (density * (weight * (log_q - log_prior) - log_p)).sum(0).mean() * width
        evidence = ((log_p + log_prior).logsumexp(0) + torch.tensor(width).log()).mean()
        with draws_from(stream(0)):
            losses = torch.stack([estimator.loss(None, x) for _ in range(400)])
    error = losses.std() / 20
    assert float(abs(losses.mean() - expected)) < 4 * float(error)
    assert float(losses.mean()) > -float(evidence) - 4 * float(error)
    assert estimator.name == ("vae" if weight == 1 else "vae(kl_weight=3)")


def test_latent_variables_keep_their_unit():
    estimator = fresh()
    theta, x = digits()
    estimator.fit_standardization(5 + 3 * theta, x)
    z = torch.randn(3, 4, generator=stream(0))
    torch.testing.assert_close(estimator.bijection(z), z)


def test_training_learns_to_reconstruct(plain):
    theta, x = digits("test")
    with torch.no_grad(), draws_from(stream(0)):
        before, after = fresh(), plain
        assert float(after.loss(theta, x)) < float(before.loss(theta, x)) - 15
        mean = digits()[1].mean(0)
        error, constant = (Encoder(after).reconstruct(x) - x).norm(dim=-1), (mean - x).norm(dim=-1)
    assert float((error / constant).median()) < 0.95
    again = trained(NoDefense())
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in plain.state_dict().items())


def test_fisher_regularisation_works_on_an_encoder(plain):
    defended = trained(FIM(beta=0.3))
    _, x = digits("test")
    plainly, less = (
        float(fisher_trace(e, x, 20, stream(0), attached=False).median()) for e in (plain, defended)
    )
    assert less < 0.5 * plainly


def test_wrong_weights_are_named():
    with pytest.raises(ConfigError, match=r"estimator.kl_weight=0 is not valid"):
        VariationalAutoencoder(2, 3, 4, kl_weight=0)
    with pytest.raises(ConfigError, match=r"estimator.likelihood='normal' is not valid"):
        VariationalAutoencoder(2, 3, 4, likelihood="normal")
