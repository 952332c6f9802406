"""Training goes on from a stored state as if it had never stopped."""

from __future__ import annotations

import copy

import pytest
import torch

from robust_npe.checks import ConfigError
from robust_npe.defenses import FIM, NoDefense
from robust_npe.estimators import MAF, DiagonalGaussian, Estimator, Identity
from robust_npe.random import draws_from, stream
from robust_npe.training import TrainingSettings, TrainingState, run_epoch
from robust_npe.training.checkpoints import _flatten as flatten
from robust_npe.training.checkpoints import pack, unpack
from tests.helpers import from_conf, linear_task, pairs

TASK = linear_task()
DATA, VALIDATION = pairs(TASK, 150), pairs(TASK, 40, seed=1)
CASES = [  # every defense is tried in test_checkpoints
    ("none", {}),
    ("spectral", {}),
    ("trades", {"steps": 3, "warm_start": True, "attack_every": 2}),
    ("fim", {"every": 2, "weight": 0.5, "rows": 20, "max_norm": 0.1}),
    ("fim_eigenvalue", {"method": "power", "every": 2, "rows": 20}),
]


def settings(**changes):
    defaults = {"batch_size": 50, "learning_rate": 3e-2, "decay_patience": 1}
    return TrainingSettings(**{**defaults, **changes})


def new_state(defense, head=None, seed=0, **changes):
    head = head or (lambda d, c: MAF(d, c, transforms=2, hidden=(16, 16)))
    with draws_from(stream(seed, "weights")):
        estimator = defense.prepare(Estimator(head, Identity, 2, 2, TASK.support))
    return TrainingState(estimator, defense, DATA, settings(**changes), stream(seed, "train"))


def run(state, epochs, **changes):
    for _ in range(epochs):
        run_epoch(state, DATA, VALIDATION, settings(**changes))
    return state


def assert_same(state, other):
    torch.testing.assert_close(state.state_dict(), other.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("weight_average", [None, 0.9])
@pytest.mark.parametrize(("name", "overrides"), CASES, ids=str)
def test_training_goes_on_bit_for_bit(name, overrides, weight_average):
    def fresh(**seed):
        defense = from_conf("defense", name, **overrides)
        return new_state(defense, weight_average=weight_average, **seed)

    whole = run(fresh(), 5)
    interrupted = run(fresh(), 3)
    resumed = fresh(seed=1)
    resumed.load_state_dict(unpack(pack(interrupted.state_dict())))
    assert_same(resumed, interrupted)
    run(interrupted, 1)  # what was loaded is a copy: this does not change it
    run(resumed, 2)
    assert_same(resumed, whole)
    assert resumed.history == whole.history
    assert resumed.epoch == 5


def test_every_part_of_the_state_matters():
    """None of the comparisons above is empty."""
    defense = FIM(0.1, every=2, weight=0.5)
    before = {k: copy.deepcopy(v) for k, v in flatten(new_state(defense).state_dict())}
    after = dict(flatten(run(new_state(defense), 6).state_dict()))
    same = {key for key, value in before.items() if not changed(value, after[key])}
    # `mean_norm` is for gradients that are clipped, as those of `fim_eigenvalue`
    names = ("standardize", "validation_stream", "diverged", "num_pairs", "losses", "mean_norm")
    assert all(any(name in key for name in names) for key in same), same


def changed(a, b):
    return not torch.equal(a, b) if isinstance(a, torch.Tensor) else a != b


def test_learning_rate_and_best_weights_are_taken_over():
    state = new_state(NoDefense())
    state.history.validation_loss = [1.0, 2.0]
    state.history.train_loss = [1.0, 2.0]
    state.history.best_epoch = 0
    state.learning_rate = 3e-4
    state.best_weights["head.context.bias"].fill_(7.0)
    other = new_state(NoDefense())
    other.load_state_dict(state.state_dict())
    assert other.learning_rate == other.optimizer.param_groups[0]["lr"] == 3e-4
    assert (other.best_weights["head.context.bias"] == 7).all()
    assert (other.epoch, other.history.epochs_since_best) == (2, 1)


def edited(path, value):
    state = copy.deepcopy(new_state(FIM(0.1)).state_dict())
    *parents, last = path.split("/")
    part = state
    for key in parents:
        part = part[key]
    if value is None:
        del part[last]
    else:
        part[last] = value
    return state


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("estimator/head.context.bias", torch.zeros(3)),
        ("estimator/head.context.bias", torch.zeros(32, dtype=torch.float64)),
        ("estimator/head.context.bias", None),
        ("estimator/more", torch.zeros(3)),
        ("optimizer/head.context.bias/step", 3),
        ("optimizer", []),
        ("generator", torch.zeros(3, dtype=torch.uint8)),
        ("defense/step", "3"),
        ("defense/average/sum/0", None),
        ("history/train_loss", ["1.0"]),
        ("history/diverged", 0),
        ("learning_rate", None),
    ],
)
def test_other_states_are_refused_in_one_sentence(path, value):
    state = new_state(FIM(0.1))
    before = copy.deepcopy(state.state_dict())
    with pytest.raises(ConfigError) as error:
        state.load_state_dict(edited(path, value))
    message = str(error.value)
    assert path.split("/")[-1] in message
    assert message.count("\n") == 0
    assert len(message) < 250
    torch.testing.assert_close(state.state_dict(), before, rtol=0, atol=0)


def test_states_of_other_trainings_are_refused():
    state = new_state(FIM(0.1))
    with pytest.raises(ConfigError, match=r"defense.*average"):
        state.load_state_dict(new_state(NoDefense()).state_dict())
    with pytest.raises(ConfigError, match=r"estimator.*keys"):
        state.load_state_dict(new_state(FIM(0.1), head=DiagonalGaussian).state_dict())
    with pytest.raises(ConfigError, match=r"average.estimator"):
        state.load_state_dict(new_state(FIM(0.1), weight_average=None).state_dict())
