"""Shards: parts of a simulation set that are made by different processes or machines."""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

from robust_npe.checks import require
from robust_npe.files import StoreError
from robust_npe.store.artefacts import Artefact, Store, content_key, finished
from robust_npe.store.chunks import SimulationPlan
from robust_npe.store.progress import Counts, simulate_chunks

__all__ = ["Shard", "make_shard", "stored_chunks"]

log = logging.getLogger(__name__)

KIND = "shards"


@dataclass(frozen=True)
class Shard:
    """Part `index` of `total`: the chunks whose number is `index` modulo `total`.

    Raises:
        ConfigError: The index is not one of 0 ... total - 1.
    """

    index: int
    total: int

    def __post_init__(self) -> None:
        """Check the range."""
        require(0 <= self.index < self.total, "shard", str(self), "i/n with 0 <= i < n")

    def __str__(self) -> str:
        return f"{self.index}/{self.total}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read the form that users write, `i/n`."""
        match = re.fullmatch(r"(\d+)/(\d+)", str(text).strip())
        require(match is not None, "shard", text, "i/n with 0 <= i < n, e.g. shard=0/4")
        assert match is not None
        return cls(int(match[1]), int(match[2]))


def make_shard(store: Store, plan: SimulationPlan, shard: Shard) -> tuple[Artefact, Counts]:
    """Simulate one shard into the store, or find it there; an interrupted one is continued.

    The shards of a set are independent of each other. Together they hold its chunks, from which
    `simulations` makes the set itself.

    Args:
        store: Where shards are kept.
        plan: The whole set.
        shard: Which part of it.
    """
    description = {**plan.description, "shard": [shard.index, shard.total]}
    wanted = math.ceil(plan.num_simulations / shard.total)
    all_numbers = count() if plan.num_chunks is None else range(plan.num_chunks)
    numbers = islice(all_numbers, shard.index, None, shard.total)
    artefact = store.get(
        KIND,
        description,
        lambda folder: vars(simulate_chunks(folder, plan, numbers, wanted)[0]),
        resumable=True,
    )
    return artefact, Counts(**artefact.manifest["facts"])


def stored_chunks(store: Store, plan: SimulationPlan) -> dict[int, Path]:
    """Return the files of the chunks that finished shards of a set hold, by number.

    Damaged shards are left out, with a warning.
    """
    found: dict[int, Path] = {}
    for artefact in finished(store.root / KIND):
        try:
            description = artefact.manifest["description"]
            shard = description.pop("shard", None)
            if content_key(description) != content_key(plan.description):
                continue
            artefact.verify()
        except StoreError as error:
            log.warning("%s The shard is left out: its chunks are simulated again.", error)
            continue
        chunks = sorted(artefact.path.glob("chunk_*.npz"))
        log.info("taking %d chunks from shard %s in %s", len(chunks), shard, artefact.path)
        found |= {int(path.stem.removeprefix("chunk_")): path for path in chunks}
    return found
