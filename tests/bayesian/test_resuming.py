"""Inference that was interrupted at any step ends with the weights of one that was not."""

from __future__ import annotations

import logging
import math
import signal
from inspect import signature
from itertools import count

import pandas as pd
import pytest
import torch

from robust_npe.bayesian import HMC, SGD, DeepEnsemble
from robust_npe.bayesian.moments import Trajectory
from robust_npe.checks import ConfigError
from robust_npe.defenses import NoDefense
from robust_npe.files import StoreError
from robust_npe.plotting import training_plot
from robust_npe.random import stream
from robust_npe.training import Checkpoint, infer, read_history, write_history
from robust_npe.training.checkpoints import unpack
from tests.bayesian.common import fresh, moons, network
from tests.helpers import conf_names, from_conf
from tests.training.test_checkpoints import DAMAGE, Killed, KilledAfter

# of whatever an inference has: three steps are an epoch, and a trajectory
SIZES = {"epochs": 5, "batch_size": 40, "swag_epochs": 2, "collected": 6, "rank": 3, "draws": 2}
SIZES |= {"warm_up": 3, "thinning": 2, "leapfrog_steps": 3, "chains": 2}
NUM, STEPS = 100, 3


def small(name):
    taken = signature(type(from_conf("inference", name))).parameters
    return from_conf("inference", name, **{k: SIZES[k] for k in SIZES.keys() & taken})


def inferred(inference, checkpoint=None, seed=0, tracker=None):
    """Weights, and all that is known of them."""
    estimator = fresh(inference, seed=seed)
    what = estimator, NoDefense(), moons(NUM), stream(seed, "infer")
    found = infer(*what, checkpoint, tracker)
    return estimator.state_dict(), found


def num_steps(inference):
    head = network(inference)
    return (
        STEPS * inference.begin(head, torch.zeros(NUM, 2), torch.zeros(NUM).long(), stream(0)).total
    )


def assert_goes_on(inference, path, step):
    with pytest.raises(Killed):
        inferred(inference, KilledAfter(path, step))
    # other seeds: all that matters comes from the file
    resumed, whole = inferred(inference, Checkpoint(path), seed=1), inferred(inference)
    torch.testing.assert_close(resumed[0], whole[0], rtol=0, atol=0)
    assert resumed[1].facts == whole[1].facts
    pd.testing.assert_frame_equal(resumed[1].history, whole[1].history, check_exact=True)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.85, 1.0])
@pytest.mark.parametrize("name", conf_names("inference"))
def test_every_inference_goes_on_bit_for_bit(name, share, tmp_path):
    inference = small(name)
    step = 1 + round(share * (num_steps(inference) - 2))
    assert_goes_on(inference, tmp_path / "checkpoint", step)


@pytest.mark.parametrize("name", conf_names("inference"))
def test_between_the_last_step_and_the_weights(name, tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    inference, path = small(name), tmp_path / "checkpoint"
    with monkeypatch.context() as patch:
        patch.setattr("robust_npe.bayesian.WeightEnsemble.assign", killed)
        with pytest.raises(Killed):
            inferred(inference, Checkpoint(path, every=0.0))
    resumed = inferred(inference, Checkpoint(path), seed=1)
    torch.testing.assert_close(resumed[0], inferred(inference)[0], rtol=0, atol=0)


def test_an_inference_that_forgets_a_field_is_noticed(tmp_path, monkeypatch):
    load = Trajectory.load_state_dict

    def forgetful(self, state):
        load(self, {**state, "count": 0})

    monkeypatch.setattr(Trajectory, "load_state_dict", forgetful)
    inference = small("swag")
    with pytest.raises(AssertionError):
        assert_goes_on(inference, tmp_path / "checkpoint", num_steps(inference) - 2)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("name", ["swag", "hmc"])
def test_damaged_checkpoints_are_set_aside_and_inference_starts_again(
    name, damage, tmp_path, caplog
):
    inference, path = small(name), tmp_path / "checkpoint"
    with pytest.raises(Killed):
        inferred(inference, KilledAfter(path, STEPS + 1))
    content = damage(path.read_bytes())
    path.write_bytes(content)
    resumed = inferred(inference, Checkpoint(path))
    torch.testing.assert_close(resumed[0], inferred(inference)[0], rtol=0, atol=0)
    assert path.with_name("checkpoint.damaged").read_bytes() == content
    (warning,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert "set aside as checkpoint.damaged" in warning


def test_full_disks_and_clocks_that_jump_stop_no_inference(tmp_path, monkeypatch, caplog):
    def full(path, content):
        raise StoreError(f"{path} cannot be written: No space left on device.")

    inference, path, jumps = small("hmc"), tmp_path / "checkpoint", count(10**9, -(10**6))
    monkeypatch.setattr("time.time", lambda: float(next(jumps)))
    monkeypatch.setattr("robust_npe.training.checkpoints.write_atomically", full)
    found = inferred(inference, Checkpoint(path, every=0.0))
    torch.testing.assert_close(found[0], inferred(inference)[0], rtol=0, atol=0)
    assert caplog.text.count("no checkpoint") == num_steps(inference)
    assert not path.exists()


@pytest.mark.parametrize(
    "other", [DeepEnsemble(3, epochs=2), HMC(2, 4), SGD(epochs=1)], ids=lambda i: i.name
)
def test_states_of_other_inferences_are_refused(other):
    def begin(inference, num, **settings):
        head, data = network(inference, **settings), torch.zeros(num, 2)
        return inference.begin(head, data, torch.zeros(num).long(), stream(0))

    mine = DeepEnsemble(2, epochs=2)
    state = begin(mine, NUM)
    before = state.generator.get_state().clone()
    for num, settings in ((NUM, {}), (NUM + 1, {"hidden": (8,)})):
        with pytest.raises(ConfigError, match="inference state"):
            state.load_state_dict(begin(other, num, **settings).state_dict())
    assert torch.equal(state.generator.get_state(), before)
    state.load_state_dict(begin(mine, NUM).state_dict())


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_take_effect_after_the_step(number, tmp_path, monkeypatch):
    inference, path = small("hmc"), tmp_path / "checkpoint"
    logits, calls = network().logits.__func__, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 1 + STEPS + 1:  # the first one is where the chains start
            signal.raise_signal(number)
        return logits(*args)

    with monkeypatch.context() as patch:
        patch.setattr("robust_npe.bayesian.WeightEnsemble.logits", interrupted)
        with pytest.raises(KeyboardInterrupt):
            inferred(inference, Checkpoint(path))
    stage = unpack(path.read_bytes())["training"]["stages"]["0"]
    assert (stage["completed"], stage["leapfrogs"]) == (1, 1)
    resumed = inferred(inference, Checkpoint(path), seed=1)
    torch.testing.assert_close(resumed[0], inferred(inference)[0], rtol=0, atol=0)


def test_history_of_descents_has_a_row_for_each_epoch(tmp_path):
    found = inferred(small("swag"))[1]
    table = found.history
    assert list(table.columns) == ["epoch", "train_loss", "learning_rate"]
    assert list(table.epoch) == list(range(7))
    assert list(table.train_loss) == found.facts["train_loss"]
    # half a cosine from the first step on, then the constant rate of the trajectory
    assert table.learning_rate[0] == 1e-3
    assert table.learning_rate[4] == pytest.approx(1e-3 * (1 + math.cos(0.8 * math.pi)) / 2)
    assert list(table.learning_rate[5:]) == [0.02, 0.02]
    write_history(table, tmp_path / "history.csv")
    pd.testing.assert_frame_equal(read_history(tmp_path / "history.csv"), table, check_exact=True)
    losses, rates = training_plot([table]).subfigs[0].axes
    assert list(losses.get_lines()[0].get_ydata()) == list(table.train_loss)
    assert len(losses.get_lines()) == len(rates.get_lines()) == 1


def test_history_of_chains_has_a_row_for_each_trajectory_and_chain(tmp_path):
    inference = small("hmc")
    estimator = fresh(inference)
    theta, x = moons(NUM)
    found = infer(estimator, NoDefense(), (theta, x), stream(0, "infer"))
    table = found.history
    assert len(table) == (3 + 2 * 2) * 2
    kept = table[table.trajectory.isin([4, 6])].log_density.to_numpy().reshape(2, 2)
    assert kept.mean(1) == pytest.approx(found.facts["log_density"])
    # the last draw of each chain, written out
    head = estimator.head
    for chain, value in enumerate(kept[-1]):
        weights = [w[2 * chain + 1].detach() for w in head.weights]
        h = torch.nn.functional.leaky_relu(estimator.context(x) @ weights[0] + weights[1])
        log_q = (h @ weights[2] + weights[3]).log_softmax(-1)
        prior = sum((w / s).square().sum() for w, s in zip(weights, head.prior_stds, strict=True))
        expected = log_q.gather(1, theta.long()).sum() - 0.5 * prior
        assert float(expected) == pytest.approx(value, rel=1e-5)
    assert list(table.is_warm_up) == [True] * 6 + [False] * 8
    sampled = table[~table.is_warm_up]
    assert sampled.acceptance.mean() == pytest.approx(found.facts["acceptance"])
    assert (sampled.groupby("chain").step_size.nunique() == 1).all()
    write_history(table, tmp_path / "history.csv")
    pd.testing.assert_frame_equal(read_history(tmp_path / "history.csv"), table, check_exact=True)
    panels = training_plot([table]).subfigs[0].axes
    lines = [list(line.get_ydata()) for line in panels[0].get_lines()[:2]]
    assert lines == [list(table[table.chain == c].log_density) for c in (0, 1)]
    assert [panel.get_ylabel() for panel in panels] == ["log density", "acceptance", "step size"]


@pytest.mark.parametrize("name", ["swag", "hmc"])
def test_trackers_are_told_epochs_and_means_over_chains(name):
    class Listening(dict):
        def log(self, number, values):
            self[number] = values

    tracker = Listening()
    table = inferred(small(name), tracker=tracker)[1].history
    first = table.columns[0]
    numbers = table.groupby(first).mean().drop(columns="chain", errors="ignore")
    assert [*tracker] == [*numbers.index]
    assert tracker[5] == pytest.approx(numbers.loc[5].to_dict())
