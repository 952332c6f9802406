"""Training that was interrupted at any step ends with the weights of one that was not."""

from __future__ import annotations

import logging
import signal

import pytest
import torch

from robust_npe.defenses import FIM, NoDefense
from robust_npe.estimators import MAF, Estimator, Identity
from robust_npe.files import StoreError
from robust_npe.random import draws_from, stream
from robust_npe.tasks import DigitImages
from robust_npe.training import Checkpoint, TrainingSettings, train
from robust_npe.training.checkpoints import pack, unpack
from tests.helpers import conf_names, from_conf, linear_task, pairs

TASK = linear_task()
IMAGES = DigitImages(latent=2)
SETTINGS = {"batch_size": 50, "max_epochs": 3, "learning_rate": 3e-2, "decay_patience": 1}
STEPS = 3  # of an epoch
CASES = [
    *((name, {}) for name in conf_names("defense")),
    ("adversarial_training", {"steps": 3, "warm_start": True}),
    ("trades", {"steps": 3, "warm_start": True, "attack_every": 2}),
    ("fim", {"every": 2, "weight": 0.5, "rows": 20, "max_norm": 0.1}),
    ("fim_eigenvalue", {"method": "power", "every": 2, "rows": 20}),
]


class Killed(Exception):
    pass


class KilledAfter(Checkpoint):
    """Writes after one step, and is killed a step later: that one is done twice."""

    def __init__(self, path, step):
        super().__init__(path)
        self.left = step

    def write_if_due(self, state):
        if self.left == 0:
            raise Killed
        self.left -= 1
        if self.left == 0:
            self.write(state)


def small_maf(dim_theta, dim_context):
    return MAF(dim_theta, dim_context, transforms=2, hidden=(16, 16))


def problem(head):
    """Task, training and validation pairs; images for a head that learns x alone."""
    if getattr(getattr(head, "func", None), "models_x", False):
        splits = ("train", "validation")
        return IMAGES, *(IMAGES.stored_pairs(split, 0, slice(0, 130)) for split in splits)
    return TASK, pairs(TASK, 130), pairs(TASK, 40, seed=1)


def trained(head, defense, checkpoint=None, seed=0, tracker=None, **changes):
    task, *data = problem(head)
    with draws_from(stream(seed, "weights")):
        estimator = defense.prepare(Estimator.for_task(task, head, Identity, "none"))
    settings = TrainingSettings(**{**SETTINGS, **changes})
    generator = stream(seed, "train")
    history = train(estimator, defense, *data, settings, generator, checkpoint, tracker)
    return estimator.state_dict(), history


def assert_goes_on(path, head, make_defense, step, **changes):
    whole = trained(head, make_defense(), **changes)
    with pytest.raises(Killed):
        trained(head, make_defense(), KilledAfter(path, step), **changes)
    # other seeds: all that matters comes from the file
    resumed = trained(head, make_defense(), Checkpoint(path), seed=1, **changes)
    assert resumed[1] == whole[1]
    torch.testing.assert_close(resumed[0], whole[0], rtol=0, atol=0)
    return whole


@pytest.mark.parametrize(("name", "overrides"), CASES, ids=str)
def test_every_defense_goes_on_bit_for_bit(name, overrides, tmp_path):
    def make():
        return from_conf("defense", name, **overrides)

    assert_goes_on(tmp_path / "checkpoint", small_maf, make, STEPS + 2)


@pytest.mark.parametrize("name", conf_names("estimator"))
def test_every_estimator_goes_on_bit_for_bit(name, tmp_path):
    head = from_conf("estimator", name)
    assert_goes_on(tmp_path / "checkpoint", head, NoDefense, STEPS + 1, max_epochs=2)


@pytest.mark.parametrize("step", [1, STEPS - 1, STEPS, 2 * STEPS, 2 * STEPS + 1])
@pytest.mark.parametrize("weight_average", [None, 0.9])
def test_any_step_will_do(step, weight_average, tmp_path):
    def make():
        return FIM(0.1, every=2, weight=0.5)

    assert_goes_on(tmp_path / "checkpoint", small_maf, make, step, weight_average=weight_average)


def test_between_the_last_step_of_an_epoch_and_its_end(tmp_path):
    assert_goes_on(tmp_path / "checkpoint", small_maf, NoDefense, STEPS)


class Forgetful(NoDefense):
    """Its penalty grows with the steps, which it counts and does not store."""

    def setup(self, estimator, theta, x):
        self.steps = 0

    def loss(self, estimator, batch, generator):
        self.steps += 1
        size = sum(p.square().sum() for p in estimator.parameters())
        return super().loss(estimator, batch, generator) + 0.01 * self.steps * size


class Mindful(Forgetful):
    def state_dict(self):
        return {"steps": self.steps}

    def load_state_dict(self, state):
        self.steps = state["steps"]


def test_a_defense_that_forgets_a_field_is_noticed(tmp_path):
    assert_goes_on(tmp_path / "mindful", small_maf, Mindful, STEPS + 2)
    with pytest.raises(AssertionError):
        assert_goes_on(tmp_path / "forgetful", small_maf, Forgetful, STEPS + 2)


DAMAGE = {
    "empty": lambda content: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "without its end": lambda content: content[:-1],
    "bit-flipped": lambda content: content[:-200] + bytes([content[-200] ^ 1]) + content[-199:],
    "of another network": lambda content: pack({"training": {"w": torch.ones(3)}, "seconds": 1.0}),
    "of something else": lambda content: pack({"training": {}}),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_checkpoints_are_set_aside_and_training_starts_again(damage, tmp_path, caplog):
    path = tmp_path / "checkpoint"
    with pytest.raises(Killed):
        trained(small_maf, NoDefense(), KilledAfter(path, STEPS + 1))
    content = damage(path.read_bytes())
    path.write_bytes(content)
    resumed = trained(small_maf, NoDefense(), Checkpoint(path))
    assert resumed[1] == trained(small_maf, NoDefense())[1]
    assert path.with_name("checkpoint.damaged").read_bytes() == content
    (warning,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert "set aside as checkpoint.damaged, training starts from the beginning" in warning


def test_a_checkpoint_must_be_a_plain_file(tmp_path):
    (tmp_path / "elsewhere").write_bytes(pack({"training": {}, "seconds": 0.0}))
    (tmp_path / "checkpoint").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="link"):
        trained(small_maf, NoDefense(), Checkpoint(tmp_path / "checkpoint"))


def test_a_disk_that_is_full_stops_no_training(tmp_path, monkeypatch, caplog):
    def full(path, content):
        raise StoreError(f"{path} cannot be written: No space left on device.")

    monkeypatch.setattr("robust_npe.training.checkpoints.write_atomically", full)
    path = tmp_path / "checkpoint"
    found = trained(small_maf, NoDefense(), Checkpoint(path, every=0.0))
    assert found[1] == trained(small_maf, NoDefense())[1]
    assert "no checkpoint" in caplog.text
    assert not path.exists()


@pytest.mark.parametrize(("every", "expected"), [(30.0, [30, 60, 90]), (0.0, 9), (None, [])])
def test_interval_between_checkpoints(every, expected, tmp_path, monkeypatch):
    now, written = [0.0], []

    class Slow(NoDefense):
        def loss(self, *args):
            now[0] += 10.0
            return super().loss(*args)

    def write(path, content):
        written.append(now[0])

    monkeypatch.setattr("robust_npe.training.checkpoints.time.monotonic", lambda: now[0])
    monkeypatch.setattr("robust_npe.training.checkpoints.write_atomically", write)
    trained(small_maf, Slow(), Checkpoint(tmp_path / "checkpoint", every))
    assert (written if isinstance(expected, list) else len(written)) == expected


def test_clocks_that_jump_do_not_matter(tmp_path, monkeypatch):
    jumps = iter(range(10**9, 0, -(10**6)))
    monkeypatch.setattr("time.time", lambda: float(next(jumps)))
    path = tmp_path / "checkpoint"
    assert trained(small_maf, NoDefense(), Checkpoint(path))[1].best_epoch >= 0
    assert not path.exists()  # it took less than half a minute


def test_what_is_packed_comes_back():
    state = {
        "a": {"b": torch.tensor(2.0), "empty": {}, "c": {"d": torch.zeros(0, 3)}},
        "bytes": torch.arange(5, dtype=torch.uint8),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "numbers": [0.1, 1e-300, float("inf")],
        "flag": True,
    }
    torch.testing.assert_close(unpack(pack(state)), state, rtol=0, atol=0)
    with pytest.raises(ValueError, match="damaged"):
        unpack(pack(state)[:-1])


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_take_effect_after_the_step(number, tmp_path):
    class Interrupted(NoDefense):
        steps = 0

        def loss(self, *args):
            self.steps += 1
            if self.steps == STEPS + 2:  # one of them was for validation
                signal.raise_signal(number)
            return super().loss(*args)

    path = tmp_path / "checkpoint"
    defense = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        trained(small_maf, defense, Checkpoint(path))
    assert defense.steps == STEPS + 2
    state = unpack(path.read_bytes())["training"]
    assert len(state["losses"]) == 1
    resumed = trained(small_maf, NoDefense(), Checkpoint(path), seed=1)
    torch.testing.assert_close(resumed[0], trained(small_maf, NoDefense())[0], rtol=0, atol=0)
