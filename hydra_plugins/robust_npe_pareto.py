"""The sweeper `pareto`: here since Hydra takes plugins from this namespace alone.

Hydra imports it whenever it starts, so it imports the search itself when that is used.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

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
        self.config = config
        self.load = partial(hydra_context.config_loader.load_sweep_config, config)
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that are missing, as `search` says.

        Raises:
            ConfigError: Optuna is not installed, or a setting is wrong.
        """
        from robust_npe.checks import ConfigError

        try:
            from robust_npe.sweeps.pareto import search
            from robust_npe.sweeps.trials import SearchSettings
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"hydra/sweeper=pareto needs {error.name}: pip install '.[pareto]'."
            ) from error

        assert self.config is not None  # after setup
        assert self.launcher is not None
        words = [f"{key}={value}" for key, value in self.params.items()] + arguments
        settings = SearchSettings.of(self.settings)
        search(words, settings, self.load, self.launcher.launch, self.config.hydra.sweep.dir)
