"""Schemas: which keys the commands have, with their types and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from robust_npe.auditing.settings import AuditSettings
from robust_npe.checks import require
from robust_npe.reference import ReferenceSettings
from robust_npe.training import TrainingSettings

__all__ = [
    "MAX_COUNT",
    "SCHEMAS",
    "AttackConfig",
    "AuditConfig",
    "CollectConfig",
    "CompareConfig",
    "Evaluation",
    "ListConfig",
    "ParetoConfig",
    "PruneConfig",
    "ReferenceConfig",
    "Seeds",
    "SimulateConfig",
    "TrainConfig",
]

MAX_COUNT = 10**9  # of simulations: more is a slip of the pen


@dataclass
class Evaluation:
    """How much is measured; what is measured stands in `metrics`.

    Attributes:
        num_test: Pairs in the test set.
        num_attacked: How many of them are attacked, from the first.
        batch_size: Observations that are processed at once.
    """

    version: ClassVar[int] = 1

    num_test: int = 2000
    num_attacked: int = 512
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("num_test", "num_attacked", "batch_size"):
            value, expected = getattr(self, name), f"between 1 and {MAX_COUNT:.0e}"
            require(0 < value <= MAX_COUNT, f"evaluation.{name}", value, expected)
        require(
            self.num_attacked <= self.num_test,
            "evaluation.num_attacked",
            self.num_attacked,
            f"at most evaluation.num_test={self.num_test}",
        )


@dataclass
class Seeds:
    """One seed for each purpose; all are `seed` unless they are set.

    Networks with the same seed of data and different ones of the others share their simulations.

    Attributes:
        data: Simulations of all splits.
        initialisation: Initial weights.
        training: Order of the pairs, and what a defense draws.
        evaluation: Attacks and metrics.
    """

    data: int = 0
    initialisation: int = 0
    training: int = 0
    evaluation: int = 0


@dataclass
class EvaluationOverrides:
    """As `Evaluation`; what is null is as in the earlier run."""

    num_test: int | None = None
    num_attacked: int | None = None
    batch_size: int | None = None


@dataclass
class ThreatConfig:
    """Keys that say what the adversary may do; see `robust_npe.attacks.ThreatModel`."""

    epsilon: Any = MISSING
    epsilon_unit: str = "std"
    norm: str = "l2"
    domain: str = "data"


@dataclass
class CommonConfig:
    """Keys that every command has."""

    output_dir: str = "outputs"
    device: str = "cpu"
    threads: int = 1


@dataclass
class TrainConfig(CommonConfig, ThreatConfig):
    """Keys of `robust-npe train`. Groups are free-form here and checked by their constructors."""

    task: Any = MISSING
    estimator: Any = MISSING
    embedding: Any = None
    defense: Any = MISSING
    attack: Any = MISSING
    objective: Any = MISSING
    inference: Any = None
    metrics: Any = field(default_factory=dict)
    tracker: Any = None
    standardize: str = "auto"
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: int = 0
    seeds: Seeds = field(default_factory=Seeds)
    num_simulations: int = MISSING
    num_validation: int = 512
    beta: float | None = None
    scale: str | None = None
    plots: bool = True


@dataclass
class AttackConfig(CommonConfig, ThreatConfig):
    """Keys of `robust-npe attack`."""

    run: Any = MISSING
    attack: Any = MISSING
    objective: Any = MISSING
    metrics: Any = field(default_factory=dict)
    evaluation: EvaluationOverrides = field(default_factory=EvaluationOverrides)
    plots: bool = True


@dataclass
class AuditConfig(CommonConfig, ThreatConfig):
    """Keys of `robust-npe audit`."""

    run: Any = None
    posterior: str | None = None
    builder: str | None = None
    trust: bool = False
    task: Any = None
    simulations: Any = None
    x: str = MISSING
    theta: str | None = None
    attack: Any = MISSING
    objective: Any = MISSING
    audit: AuditSettings = field(default_factory=AuditSettings)
    report: bool = True
    seed: int = 0


@dataclass
class SimulateConfig(CommonConfig):
    """Keys of `robust-npe simulate`."""

    task: Any = MISSING
    num_simulations: int = MISSING
    seed: int = 0
    split: str = "train"
    shard: str | None = None


@dataclass
class ReferenceConfig(TrainConfig):
    """Keys of `robust-npe reference`: those of `train`, and what to compute."""

    source: str = "test"
    observations: int = 10
    proposal: str = "estimator"
    c2st: bool = False
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)


@dataclass
class CollectConfig(CommonConfig):
    """Keys of `robust-npe collect`."""

    table: str = "results"
    to: str | None = None


@dataclass
class CompareConfig(CommonConfig):
    """Keys of `robust-npe compare`."""

    run: Any = MISSING
    quantity: str = "kl_forward"
    to: str | None = None


@dataclass
class ParetoConfig(CommonConfig):
    """Keys of `robust-npe pareto`."""

    epsilon: float = 0.5
    quantity: str = "kl_forward"
    max_nll_loss: float = 0.1
    to: str | None = None


@dataclass
class ListConfig(CommonConfig):
    """Keys of `robust-npe list`."""

    kind: str | None = None
    to: str | None = None


@dataclass
class PruneConfig(CommonConfig):
    """Keys of `robust-npe prune`."""

    kind: str | None = None
    older_than: float | None = None
    unfinished: bool = False
    damaged: bool = False
    older_format: bool = False
    unused: bool = False
    delete: bool = False


SCHEMAS: dict[str, type] = {
    "train_schema": TrainConfig,
    "attack_schema": AttackConfig,
    "audit_schema": AuditConfig,
    "simulate_schema": SimulateConfig,
    "collect_schema": CollectConfig,
    "compare_schema": CompareConfig,
    "list_schema": ListConfig,
    "pareto_schema": ParetoConfig,
    "prune_schema": PruneConfig,
    "reference_schema": ReferenceConfig,
}
