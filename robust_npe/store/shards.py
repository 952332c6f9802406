"""Shards: parts of a simulation set that are made by different processes or machines."""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from robust_npe.checks import require
from robust_npe.store.artefacts import Artefact, Store
from robust_npe.store.chunks import Chunk, Plan, load_chunk, save_chunk
from robust_npe.store.progress import Counts, progress_bar

__all__ = ["Shard", "chunk_of", "make_shard", "stored_chunks"]

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


def make_shard(store: Store, plan: Plan, shard: Shard) -> tuple[Artefact, Counts]:
    """Simulate one shard into the store, or find it there; an interrupted one is continued.

    The shards of a set are independent of each other. Together they hold its chunks, from which
    `simulations` makes the set itself.

    Args:
        store: Where shards are kept.
        plan: The whole set.
        shard: Which part of it.
    """
    description = {**plan.description, "shard": [shard.index, shard.total]}
    artefact = store.get(
        KIND, description, lambda folder: vars(_simulate(folder, plan, shard)), resumable=True
    )
    return artefact, Counts(**artefact.manifest["facts"])


def _simulate(folder: Path, plan: Plan, shard: Shard) -> Counts:
    """Write one file for each chunk, except where there is one already."""
    last = plan.num_chunks
    wanted = math.ceil(plan.num_simulations / shard.total)
    numbers = count(shard.index, shard.total) if last is None else range(last)[_slice(shard)]
    counts = Counts()
    with progress_bar(plan, wanted) as bar:
        for number in numbers:
            path = folder / _file(number)
            if not path.exists():
                save_chunk(plan.simulate(number), path)
            counts.add(load_chunk(path))
            counts.check(plan)
            bar(counts)
            if last is None and counts.accepted >= wanted:
                break
    return counts


def stored_chunks(store: Store, plan: Plan) -> dict[int, Path]:
    """Return the files of the chunks that finished shards of a set hold, by number.

    Raises:
        CorruptArtefactError: A file was changed after it had been stored.
    """
    found: dict[int, Path] = {}
    for manifest in sorted((store.root / KIND).glob("*/manifest.json")):
        description = json.loads(manifest.read_text())["description"]
        shard = Shard(*description.pop("shard"))
        if description != plan.description:
            continue
        artefact = Artefact(manifest.parent, manifest.parent.name, created=False).verify()
        chunks = sorted(artefact.path.glob("chunk_*.npz"))
        log.info("taking %d chunks from shard %s in %s", len(chunks), shard, artefact.path)
        found |= {int(path.stem.removeprefix("chunk_")): path for path in chunks}
    return found


def chunk_of(plan: Plan, number: int, stored: dict[int, Path]) -> Chunk:
    """Return a chunk from a shard that has it, else simulate it."""
    return load_chunk(stored[number]) if number in stored else plan.simulate(number)


def _slice(shard: Shard) -> slice:
    return slice(shard.index, None, shard.total)


def _file(number: int) -> str:
    return f"chunk_{number:06d}.npz"
