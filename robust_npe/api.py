"""The short way in for Python users: simulate, train, attack, compare, in one line each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn

from robust_npe.annotations import convert
from robust_npe.attacks import PGD, Attack, KLForward, ThreatModel, blindness
from robust_npe.checks import ConfigError, require, require_positive_integer
from robust_npe.components import bind
from robust_npe.config import choice
from robust_npe.defenses import Defense, NoDefense, member_seed
from robust_npe.divergences import kl as _kl
from robust_npe.estimators import MAF, Embedding, Estimator, Head
from robust_npe.posterior import Posterior, posterior_at
from robust_npe.random import draws_from, stream
from robust_npe.tasks import Task
from robust_npe.tasks.pairs import pairs_of
from robust_npe.training import TrainingSettings, infer
from robust_npe.training import train as _train

__all__ = ["attack", "kl", "simulate", "train"]

log = logging.getLogger(__name__)


def simulate(task: Task, num_simulations: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw parameters from the prior and simulate an observation for each.

    Of a task that stores pairs they are those for training.

    Args:
        task: Prior and simulator.
        num_simulations: Number of simulations N, positive.
        seed: Seed of both.

    Returns:
        Parameters `(N, D)` and observations `(N, Dx)`, failed simulations left out, with a warning.

    Raises:
        ConfigError: The task's simulator returns something else than it should.
    """
    return _pairs(task, num_simulations, "train", seed, stream(seed, "simulate"))


def _pairs(
    task: Task, num_simulations: int, split: str, seed: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    _require_object("task", task, Task)
    num_simulations = convert(num_simulations, int, "num_simulations")
    require_positive_integer("num_simulations", num_simulations)
    theta, x, dropped = pairs_of(task, split, seed, slice(0, num_simulations), generator)
    if dropped:
        log.warning("%d of %d simulations are non-finite: left out", dropped, num_simulations)
    if task.knows("stored_pairs") and len(x) + dropped < num_simulations:
        log.warning("task %s has %d pairs (%s): all are taken", task.name, len(x) + dropped, split)
    return theta, x


def train(
    task: Task,
    head: Callable[[int, int], Head] = MAF,
    defense: Defense | None = None,
    num_simulations: int = 10_000,
    embedding: Callable[[int], Embedding] | None = None,
    settings: TrainingSettings | None = None,
    seed: int = 0,
    standardize: str = "auto",
) -> Posterior:
    """Simulate from a task and train an amortized posterior on it; of classifiers, infer weights.

    Args:
        task: Prior and simulator.
        head: Class of the density estimator, or one with settings bound by `functools.partial`;
            `partial(WeightEnsemble, inference=HMC())` for a task whose theta is a label.
        defense: Training objective; None for plain neural posterior estimation.
        num_simulations: Pairs to train on, beside one twentieth as many for validation.
        embedding: Class of the embedding net, or one with settings bound; None for the one that
            suits the task.
        settings: How to train; None for the defaults.
        seed: Seed of simulations, initial weights and training.
        standardize: How x is brought to order one, see `Estimator`.

    Returns:
        The trained posterior; `posterior(x)` is q(theta|x): an `Estimator`, or what a post-hoc
        defense makes of one or several.

    Raises:
        ConfigError: Parameters with the support of the task's prior cannot be estimated, or the
            simulator returns something else than it should.
        FloatingPointError: Training diverged before there were usable weights.
    """
    defense, settings = defense or NoDefense(), settings or TrainingSettings()
    _require_object("task", task, Task)
    _require_object("defense", defense, Defense)
    _require_object("settings", settings, TrainingSettings)
    _require_factory("head", head)
    if embedding is None:
        node = {**choice("embedding", task.embedding), **task.embedding_settings}
        embedding = bind(node, "embedding", Embedding, ["dim_x"])
    _require_factory("embedding", embedding)
    defense.check(task)
    seeds = [member_seed(seed, member) for member in range(defense.num_members)]
    members = []
    for member in seeds:  # before the work, since it checks the settings
        with draws_from(stream(member, "initialise")):
            fresh = Estimator.for_task(task, head, embedding, standardize)
            members.append(defense.prepare(fresh))
    pairs = simulate(task, num_simulations, seed)
    held_out = stream(seed, "simulate", "validation")
    validation = _pairs(task, max(100, int(num_simulations) // 20), "validation", seed, held_out)
    if not (len(pairs[0]) and len(validation[0])):
        raise ConfigError(f"task {task.name}: none of its simulations can be used.")
    for member, estimator in zip(seeds, members, strict=True):
        if estimator.classifies:
            infer(estimator, defense, pairs, stream(member, "train"))
        else:
            _train(estimator, defense, pairs, validation, settings, stream(member, "train"))
    return defense.deploy([estimator.eval() for estimator in members], task)


def attack(
    posterior: Posterior,
    x: Tensor | np.ndarray,
    theta: Tensor | np.ndarray | None = None,
    epsilon: float | Sequence[float] | Tensor = 0.5,
    norm: str = "l2",
    epsilon_unit: str = "std",
    method: Attack | None = None,
    seed: int = 0,
) -> Tensor:
    """Search for small changes of observations that move the posterior far.

    Args:
        posterior: What is attacked: any map from x to a distribution over theta.
        x: Observations of shape `(B, Dx)`; the unit of epsilon is taken from them.
        theta: The parameters that generated x, `(B, D)`, for objectives that need them.
        epsilon: Radius, or one for each observation, in `epsilon_unit`.
        norm: `l1`, `l2` or `linf`.
        epsilon_unit: `std`, `absolute`, `feature` or `auto` (the distance of nearest neighbours in
            x), see `robust_npe.attacks.ThreatModel`.
        method: The attack; None for PGD on KL(q(.|x) || q(.|x~)).
        seed: Seed of the attack.

    Returns:
        Perturbed observations of shape `(B, Dx)`.
    """
    x = _observations("x", x)
    theta = None if theta is None else _numbers("theta", theta)
    method = PGD(KLForward()) if method is None else method
    _require_object("method", method, Attack)
    threat = ThreatModel(norm, epsilon_unit, domain="none")
    threat.warn(x)
    ball = threat.ball(epsilon, None, x)
    found = method.search(posterior, x, theta, ball, stream(seed, "attack"))
    moves = torch.as_tensor(ball.radius).expand(len(x)) > 0  # at x itself nothing has a gradient
    blind = None if found.zero_gradients is None else found.zero_gradients[moves]
    if blind is not None and len(blind) and (warning := blindness(blind.mean())):
        log.warning(warning)
    return found.x_adv


@torch.no_grad()
def kl(
    posterior: Posterior,
    x: Tensor | np.ndarray,
    x_adv: Tensor | np.ndarray,
    num_samples: int = 256,
    seed: int = 0,
) -> Tensor:
    """Return KL(q(.|x) || q(.|x~)) in nats for each of the observations, shape `(B,)`.

    Args:
        posterior: Any map from x to a distribution over theta.
        x: Clean observations of shape `(B, Dx)`.
        x_adv: Perturbed observations of shape `(B, Dx)`.
        num_samples: Monte-Carlo samples where there is no closed form.
        seed: Seed of the samples.
    """
    x, x_adv = _observations("x", x), _observations("x_adv", x_adv)
    same = f"{tuple(x.shape)}, the shape of x"
    require(x_adv.shape == x.shape, "x_adv.shape", tuple(x_adv.shape), same)
    require_positive_integer("num_samples", num_samples)
    p, q = posterior_at(posterior, x), posterior_at(posterior, x_adv)
    return _kl(p, q, num_samples, stream(seed, "kl"))


def _require_object(name: str, value: object, kind: type) -> None:
    expected = f"an object of class {kind.__name__}, not a class or a name"
    require(isinstance(value, kind), name, value, expected)


def _require_factory(name: str, value: object) -> None:
    is_built = isinstance(value, nn.Module)
    expected = "a class, or one with settings bound by functools.partial"
    require(callable(value) and not is_built, name, type(value) if is_built else value, expected)


def _observations(name: str, values: Tensor | np.ndarray) -> Tensor:
    x = _numbers(name, values)
    expected = "(B, Dx), one row for each observation"
    require(x.ndim == 2 and len(x) > 0, f"{name}.shape", tuple(x.shape), expected)
    require(bool(x.isfinite().all()), name, "NaN or inf in some rows", "finite: leave them out")
    return x


def _numbers(name: str, values: Tensor | np.ndarray) -> Tensor:
    """Return a tensor of floating-point numbers; their precision is the posterior's business."""
    try:
        values = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        given = f"{name} is no array of numbers"
        raise ConfigError(f"{given}: {str(error).splitlines()[0]}.") from error
    return values if values.is_floating_point() else values.float()
