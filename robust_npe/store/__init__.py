"""The store: simulations, estimators and results on disk."""

from __future__ import annotations

from robust_npe.store.artefacts import Artefact, CorruptArtefactError, Store, content_key
from robust_npe.store.results import (
    OBSERVATION_COLUMNS,
    RESULT_COLUMNS,
    SchemaError,
    collect,
    read_table,
    write_table,
)
from robust_npe.store.shards import Shard
from robust_npe.store.simulations import SimulationSet, load_simulations, simulations

__all__ = [
    "OBSERVATION_COLUMNS",
    "RESULT_COLUMNS",
    "Artefact",
    "CorruptArtefactError",
    "SchemaError",
    "Shard",
    "SimulationSet",
    "Store",
    "collect",
    "content_key",
    "load_simulations",
    "read_table",
    "simulations",
    "write_table",
]
