"""Trials of one search: Optuna suggests them, and a file keeps them from command to command."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from robust_npe.annotations import convert
from robust_npe.checks import ConfigError, require
from robust_npe.files import naming

__all__ = ["SECTION", "SearchSettings", "Trials", "open_journal", "words_of"]

SECTION = "hydra.sweeper"
DIGITS = 4  # of a value that is searched: enough, and easy to type again


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the sweeper `pareto`, as in `conf/hydra/sweeper/pareto.yaml`.

    Attributes:
        n_trials: Trials of each search, those of earlier commands included.
        n_jobs: How many of each search run at the same time.
        epsilon: Radius at which the divergence is minimised.
        quantity: The divergence.
        seed: Of what is suggested.
        storage: File that keeps the trials.
    """

    n_trials: int
    n_jobs: int
    epsilon: float
    quantity: str
    seed: int
    storage: str

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> SearchSettings:
        """Return the settings that a configuration holds.

        Raises:
            ConfigError: A key is missing or unknown, or a value is out of range.
        """
        hints = get_type_hints(cls)
        for key in {*values} ^ {f.name for f in fields(cls) if f.default is MISSING}:
            raise ConfigError(f"{SECTION}.{key} is no setting, or not set: keys are {[*hints]}.")
        given = {key: convert(values[key], hints[key], f"{SECTION}.{key}") for key in hints}
        for key, least in (("n_trials", 1), ("n_jobs", 1), ("seed", 0)):
            number = given[key]
            require(number >= least, f"{SECTION}.{key}", number, f"an integer of at least {least}")
        return cls(**given)


class Trials:
    """The trials of one search, those of earlier commands included.

    A trial that was interrupted, or failed, stays open, and is what the next command starts with.
    Each is suggested by a sampler of its own, seeded by its number: so an interrupted search and
    one that was not suggest the same.

    Multi-objective TPE: Ozaki et al. (2022), https://doi.org/10.1613/jair.1.13188

    Args:
        name: Key of all that determines the results.
        intervals: Ends of what is searched, by key.
        settings: How much is searched.
        storage: From `open_journal`.
    """

    def __init__(
        self,
        name: str,
        intervals: Mapping[str, tuple[float, float]],
        settings: SearchSettings,
        storage: BaseStorage,
    ) -> None:
        self.settings = settings
        self.space: dict[str, BaseDistribution] = {
            key: FloatDistribution(low, high, log=low > 0) for key, (low, high) in intervals.items()
        }
        self.study = optuna.create_study(
            storage=storage, study_name=name, directions=["minimize"] * 2, load_if_exists=True
        )
        self._tried: set[int] = set()

    def finished(self) -> list[FrozenTrial]:
        """Return the trials with results, in the order of their numbers."""
        return self.study.get_trials(states=[TrialState.COMPLETE])

    def suggest(self) -> list[Trial]:
        """Return what to try next, `n_jobs` trials at most: open ones first; none at the end."""
        trials = self.study.get_trials(deepcopy=False)
        opened = [Trial(self.study, t._trial_id) for t in trials if not t.state.is_finished()]
        batch = [trial for trial in opened if trial.number not in self._tried]
        batch = batch[: self.settings.n_jobs]
        for number in range(len(trials), self.settings.n_trials):
            if len(batch) == self.settings.n_jobs:
                break
            seed = self.settings.seed + number
            self.study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            batch.append(self.study.ask(self.space))
        self._tried |= {trial.number for trial in batch}
        return batch

    def tell(self, trial: Trial, objectives: Sequence[float], where: str) -> None:
        """Keep the results of a trial; what is not a number is as bad as can be."""
        trial.set_user_attr("where", where)
        self.study.tell(trial, [math.inf if math.isnan(v) else v for v in objectives])

    def front(self) -> list[FrozenTrial]:
        """Return the finished trials that no other one beats, from small to large NLL."""
        return sorted(self.study.best_trials, key=lambda trial: trial.values)


def words_of(trial: Trial | FrozenTrial) -> list[str]:
    """Return the overrides that a trial stands for."""
    return [f"{key}={value:.{DIGITS}g}" for key, value in trial.params.items()]


def open_journal(path: Path) -> BaseStorage:
    """Open the file that keeps trials, which only this process may use, or make one.

    A process that is killed may leave half a line, which is cut off, and Optuna's lock.

    Raises:
        ConfigError: It is no journal of Optuna.
        StoreError: It cannot be read or written.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with naming(path, "opened"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(0)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            if not all(map(_is_entry, whole.splitlines())) or content[:2] not in (b"", b'{"'):
                raise ConfigError(
                    f"{SECTION}.storage={str(path)!r} is no journal of Optuna, or damaged: move it "
                    "away. What its trials trained is in the store, and is found."
                )
            file.truncate(len(whole))
        Path(f"{path}.lock").unlink(missing_ok=True)
    return JournalStorage(JournalFileBackend(str(path), JournalFileOpenLock(str(path))))


def _is_entry(line: bytes) -> bool:
    """Tell whether this is an operation of a journal."""
    try:
        return "op_code" in json.loads(line)
    except (TypeError, ValueError):
        return False
