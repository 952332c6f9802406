"""`robust-npe simulate`: make (or complete) a simulation set."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from robust_npe.checks import require
from robust_npe.config import build, plain
from robust_npe.store import Store, simulations

__all__ = ["main"]

SPLITS = ("train", "validation", "test")


def main(config: DictConfig) -> str:
    """Simulate pairs into the store and say how many are usable.

    Args:
        config: Composed configuration, see `conf/simulate.yaml`.
    """
    missing = OmegaConf.missing_keys(config)
    require(not missing, "configuration", sorted(missing), "complete; set these keys")
    require(config.split in SPLITS, "split", config.split, f"one of {SPLITS}")
    task = build(config.task, "task")
    store = Store(Path(config.output_dir) / "store")
    pairs = simulations(
        store, task, plain(config.task), config.split, config.num_simulations, config.seed
    )
    return (
        f"{task.name}: {len(pairs.x)} pairs, theta {tuple(pairs.theta.shape)}, "
        f"x {tuple(pairs.x.shape)}; {pairs.num_dropped} non-finite simulations left out"
    )
