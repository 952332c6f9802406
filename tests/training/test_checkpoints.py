"""An interrupted training ends as an uninterrupted one: for every defense and every estimator."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.defenses import NoDefense
from robust_npe.estimators import Estimator, Identity
from robust_npe.random import draws_from, stream
from robust_npe.training import Checkpoint, train
from tests.estimators.common import OF_THETA, SETTINGS
from tests.helpers import conf_names, from_conf
from tests.training.test_state import CASES, DATA, TASK, VALIDATION, settings

STEPS = 3  # of an epoch


class Killed(BaseException):
    """What nothing catches."""


class Interrupting(Checkpoint):
    """Writes at every other step, and dies at a certain one."""

    def __init__(self, path, last=10**9):
        super().__init__(path, interval=0)
        self.steps, self.last = 0, last

    def step_done(self, state):
        self.steps += 1
        if self.steps % 2 == 0:
            super().step_done(state)
        if self.steps == self.last:
            raise Killed


def run(defense, checkpoint=None, head=None, **changes):
    head = head or from_conf("estimator", "maf", transforms=2, hidden=[16, 16])
    with draws_from(stream(0, "weights")):
        estimator = defense.prepare(Estimator(head, Identity, 2, 2, TASK.support))
    how, generator = settings(**{"max_epochs": 4, **changes}), stream(0, "train")
    history = train(estimator, defense, DATA, VALIDATION, how, generator, checkpoint)
    return estimator.state_dict(), history


def assert_interruptions_do_not_matter(make, path, stops=(5, 4), **settings):
    """One in mid-epoch, one step after the last write, and another soon after the first."""
    weights, history = run(make(), **settings)
    for last in stops:
        with pytest.raises(Killed):
            run(make(), Interrupting(path, last), **settings)
    again, seen = run(make(), checkpoint := Interrupting(path), **settings)
    assert checkpoint.steps < STEPS * len(history.train_loss)
    torch.testing.assert_close(again, weights, rtol=0, atol=0)
    assert seen == history


@pytest.mark.parametrize(("name", "overrides"), CASES, ids=str)
def test_of_every_defense(name, overrides, tmp_path):
    def make():
        return from_conf("defense", name, **overrides)

    assert_interruptions_do_not_matter(make, tmp_path / "state.safetensors")


@pytest.mark.parametrize("name", OF_THETA)
def test_of_every_estimator(name, tmp_path):
    head = from_conf("estimator", name, **SETTINGS.get(name, {}))
    assert set(OF_THETA) < set(conf_names("estimator"))
    assert_interruptions_do_not_matter(
        NoDefense, tmp_path / "state.safetensors", head=head, max_epochs=3
    )


def test_between_the_last_step_of_an_epoch_and_its_end(tmp_path):
    path = tmp_path / "state.safetensors"
    assert_interruptions_do_not_matter(NoDefense, path, stops=(5, 3))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_take_effect_when_the_state_is_written(number, tmp_path, monkeypatch):
    class Signalled(Checkpoint):
        def step_done(self, state):
            if state.position == 50 and state.epoch == 1:
                os.kill(os.getpid(), number)
                assert not path.exists()  # not yet
            super().step_done(state)

    def handler(number, frame):
        raise Killed

    path, before = tmp_path / "state.safetensors", signal.signal(number, handler)
    try:
        with pytest.raises(Killed):
            run(NoDefense(), Signalled(path, interval=None))
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    assert path.exists()
    torch.testing.assert_close(run(NoDefense(), Checkpoint(path))[0], run(NoDefense())[0])


def test_a_second_signal_takes_effect_at_once(tmp_path):
    class Signalled(Checkpoint):
        def step_done(self, state):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            pytest.fail("went on")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(NoDefense(), Signalled(tmp_path / "state.safetensors", interval=None))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "header", "weight", "empty", "other"])
def test_a_file_that_cannot_be_used_is_said_and_left(damage, tmp_path, caplog):
    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        run(NoDefense(), Interrupting(path, 4))
    content = path.read_bytes()
    if damage == "other":
        with pytest.raises(Killed):
            run(from_conf("defense", "fim", beta=0.1), Interrupting(path, 4))
    else:
        broken = {
            "cut": content[:-100],
            "header": b"\xff" + content[1:],
            "weight": content[:-1000] + bytes([content[-1000] ^ 1]) + content[-999:],
            "empty": b"",
        }
        path.write_bytes(broken[damage])
    again = run(NoDefense(), Checkpoint(path))[0]
    torch.testing.assert_close(again, run(NoDefense())[0], rtol=0, atol=0)
    assert "cannot be used, training starts anew" in caplog.text


def test_negative_intervals_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="checkpoint_every"):
        Checkpoint(tmp_path / "state", interval=-1)
