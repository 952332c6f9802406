"""Defended training in sbi's own loop."""

from __future__ import annotations

import copy
import pickle
import time
import warnings

import pytest
import torch
from sbi.inference import NPE
from sbi.neural_nets import posterior_nn
from sbi.neural_nets.estimators.nflows_flow import NFlowsFlow

import robust_npe as rn
from robust_npe.checks import ConfigError
from robust_npe.defenses import DRO, FIM, TRADES, Ensemble, NoDefense
from robust_npe.fisher import fisher_trace
from robust_npe.integrations.sbi import defended
from robust_npe.random import draws_from, stream
from tests.sbi.conftest import train_shortly


def train(density_estimator, problem, **options):
    with draws_from(stream(0)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inference = NPE(problem[0], density_estimator=density_estimator, show_progress_bars=False)
        return train_shortly(inference, problem, **options), inference


def net_of(defense, problem):
    with draws_from(stream(0)):
        return defended("maf", defense)(*problem[1:]).train()


@pytest.mark.parametrize("model", ["maf", "nsf", "mdn", "zuko_nsf"])
def test_no_defense_trains_what_sbi_trains(model, problem):
    plain, _ = train(model, problem, epochs=1)
    other, _ = train(defended(model, NoDefense()), problem, epochs=1)
    expected = plain.posterior_estimator.state_dict()
    found = other.posterior_estimator.state_dict()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", ["maf", "zuko_nsf"])
def test_a_penalty_takes_information_away(model, problem):
    x = problem[2][:100]
    plain, _ = train(model, problem)
    strong, _ = train(defended(model, FIM(beta=10.0, every=2)), problem)
    one, other = (
        fisher_trace(rn.as_posterior(p), x, 20, stream(0), attached=False) for p in (plain, strong)
    )
    assert other.mean() < 0.5 * one.mean()


def test_the_loss_in_training_is_that_of_the_defense(problem):
    _, theta, x = problem
    beta, net = 0.3, net_of(FIM(beta=0.3, gradient="exact", weight=1.0), problem)
    plain = copy.deepcopy(net)
    rows = net.loss(theta, x)
    assert rows.shape == (len(x),)
    nll = plain.loss(theta, x)
    difference = rows - nll  # one number, whatever sbi's weights of the rows
    torch.testing.assert_close(difference, difference[:1].expand(len(x)), rtol=1e-4, atol=1e-4)
    trace = fisher_trace(rn.as_posterior(plain), x, 200, stream(1), attached=False).mean()
    torch.testing.assert_close(difference[0], beta * trace, rtol=0.15, atol=0)


def test_its_gradient_is_that_of_the_penalty(problem):
    _, theta, x = problem
    net = net_of(FIM(beta=1.0, gradient="exact", weight=1.0, num_samples=50), problem)
    plain = copy.deepcopy(net).train()
    found = torch.autograd.grad(net.loss(theta, x).mean(), list(net.parameters()))
    q = rn.as_posterior(plain)
    value = plain.loss(theta, x).mean() + fisher_trace(q, x, 50, stream(9), attached=True).mean()
    expected = torch.autograd.grad(value, list(plain.parameters()))
    found, expected = (torch.cat([g.flatten() for g in part]) for part in (found, expected))
    assert torch.nn.functional.cosine_similarity(found, expected, dim=0) > 0.98
    torch.testing.assert_close(found.norm(), expected.norm(), rtol=0.1, atol=0)


def test_validation_repeats_its_numbers_and_changes_nothing(problem):
    _, theta, x = problem
    net = net_of(FIM(beta=1.0), problem)
    state = copy.deepcopy(net.state_dict())

    def validate():
        net.train()
        net.loss(theta[:50], x[:50])
        net.eval()
        with torch.no_grad():
            return [net.loss(theta[part], x[part]) for part in (slice(50), slice(50, 100))]

    first, second = validate(), validate()
    for one, other in zip(first, second, strict=True):
        torch.testing.assert_close(one, other)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


def test_what_is_left_behind_is_plain_sbi(problem):
    posterior, inference = train(defended("maf", FIM(beta=0.01)), problem, epochs=1)
    assert type(inference._neural_net) is not NFlowsFlow
    for left in (posterior.posterior_estimator, copy.deepcopy(inference._neural_net)):
        assert type(left) is NFlowsFlow
        assert "_training" not in vars(left)
    for kept in (posterior, inference._neural_net):
        assert b"robust_npe" not in pickle.dumps(kept)
    again = pickle.loads(pickle.dumps(posterior))
    theta, x = problem[1][:5], problem[2][:5]
    q = rn.as_posterior(posterior)
    torch.testing.assert_close(rn.as_posterior(again)(x).log_prob(theta), q(x).log_prob(theta))


def test_later_rounds_say_that_they_are_undefended(problem, caplog):
    posterior, inference = train(defended("maf", FIM(beta=0.01)), problem, epochs=1)
    assert "first round" not in caplog.text
    _, theta, x = problem
    with draws_from(stream(1)), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        proposal = posterior.set_default_x(x[:1])
        inference.append_simulations(theta[:100], x[:100], proposal=proposal)
        inference.train(max_num_epochs=1)
        assert caplog.text.count("only the first round of sbi's training is defended") == 1
        inference.append_simulations(theta[:100], x[:100], proposal=proposal)
        inference.train(max_num_epochs=1, retrain_from_scratch=True)  # a new net, a new warning
    assert caplog.text.count("only the first round of sbi's training is defended") == 2


def test_other_defenses(problem):
    trades, _ = train(defended("maf", TRADES(beta=1.0)), problem, epochs=1)
    assert rn.as_posterior(trades)(problem[2][:2]).batch_shape == (2,)
    with pytest.raises(ConfigError, match="trains a single net"):
        defended("maf", Ensemble(NoDefense()))
    with pytest.raises(ConfigError, match=r"needs the `standardize` .* FIM"):
        train(defended("maf", DRO()), problem, epochs=1)
    for name in ("mdn", "made"):
        told = rf"density_estimator='{name}' .* reparameterised samples"
        with pytest.raises(ConfigError, match=told):
            defended(name, FIM())
    with pytest.raises(ConfigError, match=r"density_estimator='mof' .* a model of"):
        train(defended("mof", FIM()), problem, epochs=1)
    with pytest.raises(ConfigError, match="left out for a builder"):
        defended(posterior_nn("maf"), FIM(), hidden_features=10)


@pytest.mark.slow
def test_what_a_defense_buys_and_costs():
    task = rn.tasks.GaussianLinear()
    theta, x = rn.simulate(task, 10_000)
    x_test = rn.simulate(task, 100, seed=1)[1]
    moved, seconds = [], []
    for density_estimator in ("maf", defended("maf", FIM(beta=0.01))):
        with draws_from(stream(0)):
            inference = NPE(task.prior, density_estimator, show_progress_bars=False)
            inference.append_simulations(theta, x)
            start = time.process_time()
            inference.train(max_num_epochs=40)
            seconds.append(time.process_time() - start)
            q = rn.as_posterior(inference.build_posterior())
        moved.append(rn.kl(q, x_test, rn.attack(q, x_test, epsilon=0.5)).mean())
    assert moved[1] < moved[0] / 3
    assert seconds[1] < 2.2 * seconds[0]
