"""Hydra's own sweeper, which also tells what is wrong with jobs before the first one starts: here
since Hydra takes plugins from this namespace alone."""

from __future__ import annotations

from functools import partial
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

__all__ = ["CheckedSweeper"]


class CheckedSweeper(BasicSweeper):
    """All combinations of several values, each of them built once to check its settings."""

    def validate_batch_is_legal(self, batch: Any) -> None:
        """Compose each job, which raises what concerns all of them, and check its settings."""
        from robust_npe.sweeps.checking import check_jobs

        assert self.hydra_context is not None
        assert self.overrides is not None
        first = sum(map(len, self.overrides[: self.batch_index - 1]))
        load = partial(self.hydra_context.config_loader.load_sweep_config, self.config)
        check_jobs(load, [list(words) for words in batch], first)
