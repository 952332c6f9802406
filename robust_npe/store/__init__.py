"""The store: simulations, estimators and results on disk."""

from __future__ import annotations

from robust_npe.files import StoreError
from robust_npe.store.artefacts import Artefact, Store, content_key, finished
from robust_npe.store.collecting import collect, collect_readable
from robust_npe.store.manifests import CorruptArtefactError
from robust_npe.store.parts import PARTS, part
from robust_npe.store.results import (
    OBSERVATION_COLUMNS,
    RESULT_COLUMNS,
    SchemaError,
    read_table,
    write_table,
)
from robust_npe.store.shards import Shard
from robust_npe.store.simulations import SimulationSet, load_simulations, simulations
from robust_npe.store.yaml_config import read_yaml_config

__all__ = [
    "OBSERVATION_COLUMNS",
    "PARTS",
    "RESULT_COLUMNS",
    "Artefact",
    "CorruptArtefactError",
    "SchemaError",
    "Shard",
    "SimulationSet",
    "Store",
    "StoreError",
    "collect",
    "collect_readable",
    "content_key",
    "finished",
    "load_simulations",
    "part",
    "read_table",
    "read_yaml_config",
    "simulations",
    "write_table",
]
