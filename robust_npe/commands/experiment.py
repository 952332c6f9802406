"""From a configuration to objects, simulations, a trained estimator and measurements."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from robust_npe.attacks import ThreatModel
from robust_npe.checks import ConfigError, require
from robust_npe.config import Evaluation, TrainConfig, build, choice, epsilons, plain
from robust_npe.defenses import Defense
from robust_npe.estimators import Estimator
from robust_npe.metrics import Metric
from robust_npe.random import draws_from, stream
from robust_npe.store import Artefact, SimulationSet, Store, simulations
from robust_npe.store.weights import load_weights, save_weights
from robust_npe.tasks.base import Task
from robust_npe.training import TrainingSettings, train

__all__ = ["Experiment", "Trained", "checked_device"]

log = logging.getLogger(__name__)

FORMAT = 4  # increase when the same configuration comes to mean other weights or results


def checked_device(name: str) -> torch.device:
    """Return the device of this name.

    Raises:
        ConfigError: There is no such device on this machine.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"device={name!r} is not available on this machine ({str(error).splitlines()[0]}). "
            "Use device=cpu."
        ) from error
    return device


@dataclass(frozen=True)
class Trained:
    """A trained estimator and where it is stored."""

    estimator: Estimator
    artefact: Artefact

    @property
    def diverged(self) -> bool:
        """Whether the loss became non-finite, so that earlier weights were restored."""
        return bool(self.artefact.manifest["facts"]["diverged"])


class Experiment:
    """Everything that a `train` configuration describes, built and checked.

    Building it does no work beyond constructing objects: wrong settings fail here.

    Args:
        config: Composed configuration of `robust-npe train`.
    """

    def __init__(self, config: DictConfig) -> None:
        missing = OmegaConf.missing_keys(config)
        require(not missing, "configuration", sorted(missing), "complete; set these keys")
        unknown = set(config) - {f.name for f in fields(TrainConfig)}
        require(not unknown, "configuration", sorted(map(str, unknown)), "free of unknown keys")
        self.config = plain(config)
        self.seed = int(config.seed)
        self.device = checked_device(config.device)
        self.store = Store(Path(config.output_dir) / "store")
        beta = config.beta
        require(beta is None or beta >= 0, "beta", beta, "a number that is not negative")
        for key in ("num_simulations", "num_validation", "threads"):
            require(config[key] > 0, key, config[key], "a positive integer")
        self.epsilons = epsilons(config.epsilon)
        self.threat = ThreatModel(config.norm, config.epsilon_unit, config.domain)
        self.training = TrainingSettings(**self.config["training"])
        self.evaluation = Evaluation(**self.config["evaluation"])
        self.task: Task = build(config.task, "task")
        self.config["embedding"] = self.config["embedding"] or choice(
            "embedding", self.task.embedding
        )
        self.threat.check(self.task)
        self.defense: Defense = build(config.defense, "defense")
        self.metrics: dict[str, Metric] = {
            name: build(node, f"metrics.{name}")
            for name, node in config.metrics.items()
            if "_target_" in node  # a scale also sizes metrics that were not chosen
        }
        self.attack_factory = build(config.attack, "attack")
        self.attack_factory(ball=self.threat.ball(0.0, self.task, torch.zeros(2, 2)))
        self._fresh_estimator()

    @property
    def estimator_description(self) -> dict[str, Any]:
        """Everything that determines the weights."""
        keys = ("task", "estimator", "embedding", "defense", "num_simulations", "num_validation")
        return {
            "format": FORMAT,
            **{key: self.config[key] for key in keys},
            "training": asdict(self.training),
            "seed": self.seed,
            "device": self.device.type,
        }

    @property
    def run_description(self) -> dict[str, Any]:
        """Everything that determines the results."""
        keys = ("attack", "metrics", "evaluation", "epsilon_unit", "norm", "domain")
        return {
            **self.estimator_description,
            **{key: self.config[key] for key in keys},
            "epsilon": self.epsilons,
        }

    @cached_property
    def test_set(self) -> tuple[Tensor, Tensor]:
        """Parameters and observations of the test set, on the device."""
        return self._pairs("test", self.evaluation.num_test)

    def simulate(self, split: str, num_simulations: int) -> SimulationSet:
        """Return a simulation set from the store, made if needed."""
        return simulations(
            self.store, self.task, self.config["task"], split, num_simulations, self.seed
        )

    def trained(self) -> Trained:
        """Return the trained estimator from the store, trained if needed."""
        artefact = self.store.get("estimators", self.estimator_description, self._train)
        artefact.verify()
        verb = "trained" if artefact.created else "found trained"
        log.info("%s estimator in %s", verb, artefact.path)
        estimator = self._fresh_estimator()
        load_weights(estimator, artefact.path / "weights.safetensors")
        return Trained(estimator.to(self.device).eval(), artefact)

    def _pairs(self, split: str, num_simulations: int) -> tuple[Tensor, Tensor]:
        pairs = self.simulate(split, num_simulations)
        return pairs.theta.to(self.device), pairs.x.to(self.device)

    def _fresh_estimator(self) -> Estimator:
        with draws_from(stream(self.seed, "initialise")):
            return Estimator(
                build(self.config["estimator"], "estimator"),
                build(self.config["embedding"], "embedding"),
                self.task.dim_theta,
                self.task.dim_x,
                self.task.support,
            )

    def _train(self, folder: Path) -> Mapping[str, Any]:
        estimator = self._fresh_estimator().to(self.device)
        pairs = self._pairs("train", self.config["num_simulations"])
        validation = self._pairs("validation", self.config["num_validation"])
        log.info("training on %d pairs, defense %s ...", len(pairs[0]), self.defense.name)
        history = train(
            estimator,
            self.defense,
            pairs,
            validation,
            self.training,
            stream(self.seed, "train"),
        )
        save_weights(estimator, folder / "weights.safetensors")
        return asdict(history) | {"defense": self.defense.facts()}
