"""From a configuration to objects, simulations, a trained estimator and measurements."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from robust_npe.attacks import Attack, AutoUnit, Ball, ThreatModel, auto_unit
from robust_npe.checks import ConfigError, require
from robust_npe.commands.checks import check_attack, check_target
from robust_npe.commands.device import checked_device
from robust_npe.commands.fitting import fit
from robust_npe.commands.measurable import check_metrics
from robust_npe.commands.replicates import replicates
from robust_npe.commands.runs import earlier_config, run_folder, stored_estimators
from robust_npe.commands.trained import WEIGHTS, Trained
from robust_npe.commands.versioned import versioned
from robust_npe.components import bind, build, complete, describe
from robust_npe.config import MAX_COUNT, Evaluation, Seeds, TrainConfig, checked, choice, epsilons
from robust_npe.defenses import Defense, PostHoc, member_seed
from robust_npe.estimators import Embedding, Estimator, Head
from robust_npe.metrics import Metric
from robust_npe.posterior import Posterior
from robust_npe.random import draws_from, stream
from robust_npe.store import Artefact, SimulationSet, Store, content_key, simulations
from robust_npe.store.chunks import SimulationPlan
from robust_npe.store.weights import load_weights
from robust_npe.tasks.base import Task
from robust_npe.training import TrainingSettings
from robust_npe.training.inferring import check_inference
from robust_npe.training.trackers import TrackerComponent

__all__ = ["Experiment", "Trained"]

log = logging.getLogger(__name__)

# arguments that the task and the embedding net determine
HEAD = ("dim_theta", "dim_context", "dim_x", "num_classes")
EMBEDDING = ("dim_x",)
TRACKER = ("run",)
GROUPS = ("task", "estimator", "embedding", "defense", "attack", "metrics", "tracker")


class Experiment:
    """Everything that a `train` configuration describes, built and checked.

    Building it does no work beyond constructing objects: wrong settings fail here.

    Args:
        config: Composed configuration of `robust-npe train`.
        store: Where simulations, estimators and attacked observations are kept; None for the one
            in the configuration's `output_dir`.
        source: Where simulations are looked for first; it is only read.
        members: The trained estimators, where they must not be trained again.

    Raises:
        ConfigError: A setting is wrong, or the estimators were made with other ones.
    """

    def __init__(
        self,
        config: DictConfig | Mapping[str, Any],
        store: Store | None = None,
        source: Store | None = None,
        members: Sequence[Artefact] = (),
    ) -> None:
        self.config = checked(config, TrainConfig)
        self._check_numbers()
        self.device = checked_device(self.config["device"])
        self.store = store or Store(Path(self.config["output_dir"]) / "store")
        self.source = source
        self.seeds = Seeds(**self.config["seeds"])
        self.threat = ThreatModel(*(self.config[key] for key in ("norm", "epsilon_unit", "domain")))
        self.training = TrainingSettings(**self.config["training"])
        self.evaluation = Evaluation(**self.config["evaluation"])
        for group in GROUPS:
            self.config[group] = complete(self.config[group])
        # a scale also sizes metrics that were not chosen
        metrics = self.config["metrics"]
        require(isinstance(metrics, Mapping), "metrics", metrics, "a section of keys")
        sized = [k for k, v in metrics.items() if isinstance(v, Mapping) and "_target_" not in v]
        self.config["metrics"] = {k: node for k, node in metrics.items() if k not in sized}
        self._sources: dict[str, str] = {}
        self._build()
        self.epsilons = epsilons(self.config["epsilon"], self.threat.radii(self.task))
        self._given = members
        for member, estimator in enumerate(members):
            self._check_given(member, estimator)

    def _check_given(self, member: int, estimator: Artefact) -> None:
        """Make sure that a stored estimator is what the configuration describes."""
        stored = {**estimator.manifest["description"], "device": self.device.type}
        if content_key(stored) == content_key(self._described_estimator(member)):
            return
        raise ConfigError(
            f"the estimator in {estimator.path} was made with other code, files or settings than "
            "its configuration describes now: use the version and the files it was made with, or "
            "train again with `robust-npe train`."
        )

    def _check_numbers(self) -> None:
        beta = self.config["beta"]
        require(beta is None or beta >= 0, "beta", beta, "a number that is not negative")
        for key in ("num_simulations", "num_validation"):
            number, expected = self.config[key], f"between 1 and {MAX_COUNT:.0e}"
            require(0 < number <= MAX_COUNT, key, number, expected)

    def _build(self) -> None:
        config = self.config
        self.task = build(config["task"], "task", Task)
        self.threat.check(self.task, self.evaluation.num_test)
        suits = choice("embedding", self.task.embedding) | dict(self.task.embedding_settings)
        config["embedding"] = config["embedding"] or suits
        tracker = config["tracker"]
        self._tracker = tracker and bind(tracker, "tracker", TrackerComponent, TRACKER)
        self._head = bind(config["estimator"], "estimator", Head, HEAD)
        self._embedding = bind(config["embedding"], "embedding", Embedding, EMBEDDING)
        self.defense = build(config["defense"], "defense", Defense)
        self.defense.check(self.task)
        self.attack = build(config["attack"], "attack", Attack)
        check_attack(self.attack, self.task)
        self.attack.load_sources(self._load_source)
        self.metrics = {
            name: build(node, f"metrics.{name}", Metric) for name, node in config["metrics"].items()
        }
        # settings of the estimator are checked against the task, too
        estimator = self._fresh_estimator()
        check_inference(estimator, self.defense, config["inference"])
        deployed = self.defense.deploy([estimator] * self.defense.num_members, self.task)
        check_target(self.attack, deployed, self.task.dim_x, self.evaluation)
        check_metrics(self.metrics, self.task, estimator, self.defense.name)

    def _load_source(self, run: str) -> Posterior:
        """Return the posterior of another run, for attacks that search on it."""
        folder = run_folder(run, Path(self.config["output_dir"]) / "runs", "attack.run")
        store = Store(folder.parent.parent / "store")
        config = {
            **earlier_config(folder, "attack.run"),
            "attack": {"_target_": "robust_npe.attacks.Noise"},
            "metrics": {},
            "device": self.config["device"],
        }
        other = Experiment(config, store, members=stored_estimators(store, folder, "attack.run"))
        for key in ("dim_x", "dim_theta"):
            mine, its = (getattr(task, key) for task in (self.task, other.task))
            expected = f"a run with {key}={mine}, as this task; that of {other.task.name} is {its}"
            require(mine == its, "attack.run", run, expected)
        self._sources[run] = content_key(other.posterior_description)
        return other.trained().posterior

    @cached_property
    def task_description(self) -> dict[str, Any]:
        """Everything that determines the simulator."""
        return describe(self.config["task"], "task", Task)

    @cached_property
    def posterior_description(self) -> dict[str, Any]:
        """Everything that determines the posterior: what determines the weights, and for post-hoc
        defenses what is made of them; the seeds of further members follow from the first's."""
        weights = self._estimator_description(0)
        if not isinstance(self.defense, PostHoc):
            return weights
        return {**weights, "deployed": describe(self.config["defense"], "defense", Defense)}

    def _estimator_description(self, member: int) -> dict[str, Any]:
        if self._given:
            return self._given[member].manifest["description"]
        return self._described_estimator(member)

    def _described_estimator(self, member: int) -> dict[str, Any]:
        defense, node = self.defense, self.config["defense"]
        while isinstance(defense, PostHoc):
            defense, node = defense.base, node["base"]
        seeds = asdict(self._member_seeds(member))
        return {
            "task": self.task_description,
            "estimator": describe(self.config["estimator"], "estimator", Head, *HEAD),
            "embedding": describe(self.config["embedding"], "embedding", Embedding, *EMBEDDING),
            "defense": describe(node, "defense", Defense),
            "training": versioned(self.training),
            "versions": [
                {"class": cls.__name__, "version": [cls.version]}
                for cls in (SimulationPlan, Estimator)
            ],
            "standardize": self.config["standardize"],
            "num_simulations": self.config["num_simulations"],
            "num_validation": self.config["num_validation"],
            "seeds": {name: seeds[name] for name in ("data", "initialisation", "training")},
            "device": self.device.type,
        }

    @cached_property
    def threat_description(self) -> dict[str, Any]:
        """Everything but the radius that determines the attacked observations."""
        return {
            **self.posterior_description,
            **({"sources": self._sources} if self._sources else {}),
            "attack": describe(self.config["attack"], "attack", Attack),
            "threat": versioned(self.threat),
            "evaluation": versioned(self.evaluation),
            "seeds": asdict(self.seeds),
        }

    @cached_property
    def run_description(self) -> dict[str, Any]:
        """Everything that determines the results."""
        metrics = {
            name: describe(node, f"metrics.{name}", Metric)
            for name, node in self.config["metrics"].items()
        }
        return {**self.threat_description, "metrics": metrics, "epsilon": self.epsilons}

    @property
    def run_id(self) -> str:
        """Key of the run in the store."""
        return content_key(self.run_description)

    @cached_property
    def test_set(self) -> tuple[Tensor, Tensor]:
        """Parameters and observations of the test set, on the device."""
        theta, x = self._pairs("test", self.evaluation.num_test)
        self.threat.warn(x)
        return theta, x

    @cached_property
    def unit(self) -> float:
        """Length of epsilon = 1 in units of x, see `ThreatModel.unit`."""
        return self.threat.unit(self.task, self.test_set[1])

    def ball(self, epsilon: float | Tensor) -> Ball:
        """Return the allowed perturbations, of one radius or of one for each observation `(B,)`;
        units and domain come from the test set."""
        return self.threat.ball(epsilon, self.task, self.test_set[1], self.auto)

    @cached_property
    def auto(self) -> AutoUnit | None:
        """What `epsilon_unit=auto` is; None for other units."""
        if self.threat.epsilon_unit != "auto":
            return None
        theta, x = self.test_set
        what = self.task, self.task_description, theta, self.seeds.data
        unit = auto_unit(self.threat.norm, x, replicates(self.store, *what))
        log.info("%s", unit.text(self.epsilons, self.task.x_names))
        return unit

    def simulate(self, split: str, num_simulations: int) -> SimulationSet:
        """Return a simulation set from the store, made if needed."""
        what = (self.task, self.task_description, split, num_simulations, self.seeds.data)
        key = content_key(SimulationPlan(*what).description)
        known = self.source is not None and self.source.find("simulations", key) is not None
        store = self.source if self.source is not None and known else self.store
        return simulations(store, *what)

    def trained(self) -> Trained:
        """Return what was trained, from the store; what is not there is trained."""
        members, artefacts = [], []
        for member in range(self.defense.num_members):
            artefact = self._given[member] if self._given else self._stored(member)
            verb = "trained" if artefact.created else "found trained"
            log.info("%s estimator in %s", verb, artefact.path)
            estimator = self._fresh_estimator()
            load_weights(estimator, artefact.path / WEIGHTS)
            members.append(estimator.to(self.device).eval())
            artefacts.append(artefact)
        return Trained(self.defense.deploy(members, self.task), members[0].label, artefacts)

    def _stored(self, member: int) -> Artefact:
        what = self._estimator_description(member), partial(self._train, member)
        return self.store.get("estimators", *what, resumable=True)

    def _member_seeds(self, member: int) -> Seeds:
        """Members share simulations."""
        first = self.seeds
        start, training = (member_seed(s, member) for s in (first.initialisation, first.training))
        return replace(first, initialisation=start, training=training)

    def _pairs(self, split: str, num_simulations: int) -> tuple[Tensor, Tensor]:
        pairs = self.simulate(split, num_simulations)
        return pairs.theta.to(self.device), pairs.x.to(self.device)

    def _fresh_estimator(self, member: int = 0) -> Estimator:
        task, standardize = self.task, self.config["standardize"]
        with draws_from(stream(self._member_seeds(member).initialisation, "initialise")):
            return self.defense.prepare(
                Estimator.for_task(task, self._head, self._embedding, standardize)
            )

    def _train(self, member: int, folder: Path) -> Mapping[str, Any]:
        estimator = self._fresh_estimator(member).to(self.device)
        pairs = self._pairs("train", self.config["num_simulations"])
        validation = self._pairs("validation", self.config["num_validation"])
        log.info("training on %d pairs, defense %s ...", len(pairs[0]), self.defense.name)
        generator = stream(self._member_seeds(member).training, "train")
        tracker = self._tracker(run=folder.stem) if self._tracker else None
        what = pairs, validation, self.training, generator, folder, tracker
        return fit(estimator, self.defense, *what)
