"""The sweeper `pareto`: here since Hydra takes plugins from this namespace alone.

Hydra imports it whenever it starts, so it imports the search itself when that is used.
"""

from __future__ import annotations

from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

__all__ = ["ParetoSweeper"]


class ParetoSweeper(Sweeper):
    """Looks for settings that no others beat in both likelihood and robustness.

    Args:
        params: Overrides that hold unless the command line sets their keys.
        settings: Those of `robust_npe.sweeps.trials.SearchSettings`.
    """

    def __init__(self, params: dict[str, Any] | None = None, **settings: Any) -> None:
        self.params = params or {}
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keep what the jobs are made of, and prepare what starts them."""
        self.loader, self.config = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are missing."""
        from robust_npe.sweeps.pareto import search
        from robust_npe.sweeps.trials import SearchSettings

        def load(words: list[str]) -> DictConfig:
            config = self.loader.load_sweep_config(self.config, words)
            with open_dict(config):
                del config["hydra"]
            return config

        words = [f"{key}={value}" for key, value in self.params.items()] + arguments
        settings = SearchSettings.of(self.settings)
        search(words, settings, load, self.launcher.launch, self.config.hydra.sweep.dir)
