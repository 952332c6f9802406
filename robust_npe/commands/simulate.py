"""`robust-npe simulate`: make (or complete) a simulation set, or one shard of it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from robust_npe.checks import require
from robust_npe.components import build, describe
from robust_npe.config import MAX_COUNT, SimulateConfig, checked
from robust_npe.store import Shard, Store, simulations
from robust_npe.store.chunks import SimulationPlan
from robust_npe.store.shards import make_shard
from robust_npe.tasks.base import Task

__all__ = ["main"]

SPLITS = ("train", "validation", "test")


def main(config: DictConfig) -> str:
    """Simulate pairs into the store and say how many are usable.

    Args:
        config: Composed configuration, see `conf/simulate.yaml`.
    """
    settings = checked(config, SimulateConfig)
    split, number, node = settings["split"], settings["num_simulations"], settings["task"]
    require(split in SPLITS, "split", split, f"one of {SPLITS}")
    expected = f"between 1 and {MAX_COUNT:.0e}"
    require(0 < number <= MAX_COUNT, "num_simulations", number, expected)
    shard = None if settings["shard"] is None else Shard.parse(settings["shard"])
    task = build(node, "task", Task)
    store = Store(Path(settings["output_dir"]) / "store")
    plan = SimulationPlan(task, describe(node, "task", Task), split, number, settings["seed"])
    return _whole(store, plan) if shard is None else _part(store, plan, shard)


def _whole(store: Store, plan: SimulationPlan) -> str:
    task, number = plan.task, plan.num_simulations
    pairs = simulations(store, task, plan.task_config, plan.split, number, plan.seed)
    text = (
        f"{task.name}: {len(pairs.x)} pairs, theta {tuple(pairs.theta.shape)}, "
        f"x {tuple(pairs.x.shape)}; {pairs.num_dropped} non-finite simulations left out"
    )
    if plan.filters:
        text += f"; {_acceptance(pairs.num_accepted, pairs.num_simulated)}"
    return text


def _part(store: Store, plan: SimulationPlan, shard: Shard) -> str:
    artefact, counts = make_shard(store, plan, shard)
    text = f"{plan.task.name}, shard {shard}: {counts.accepted} pairs in {artefact.path}"
    if plan.filters:
        text += f"; {_acceptance(counts.accepted, counts.simulated)}"
    return text + "; the same command without shard merges all shards"


def _acceptance(accepted: int, simulated: int) -> str:
    return f"{accepted} of {simulated} simulations accepted ({accepted / simulated:.2%})"
