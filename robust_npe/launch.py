"""Run a command through Hydra, and say in one line what a user can do about what went wrong."""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import torch
from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from robust_npe.annotations import convert
from robust_npe.checks import ConfigError, PartialResultError, require
from robust_npe.cli import fail
from robust_npe.config import prepare_hydra
from robust_npe.files import StoreError
from robust_npe.interruption import as_worker, interruptible
from robust_npe.messages import hydra_message
from robust_npe.paths import config_directory
from robust_npe.sweeps import check_folders, tracked, watched

__all__ = ["launch"]

log = logging.getLogger(__name__)

USER_ERRORS = (
    ConfigError,
    FloatingPointError,
    ImportError,
    PartialResultError,
    StoreError,
)
LISTS = ("metric",)  # groups of which several choices hold at once
REFUSED = ("config_path", "config_name", "experimental_rerun")  # the last one runs what a file says
MAX_THREADS = 1024
SWEEP = (  # the watch tells what Hydra would
    "+hydra.callbacks.sweep._target_=robust_npe.sweeps.watch.SweepStarted",
    "hydra.hydra_logging.root.level=WARNING",
)
RUN_ID = re.compile(r"(?<=[=,\[])([0-9a-f]{16})(?=[,\]]|$)")


def launch(command: str, *words: str) -> int:
    """Run a command and return its exit status.

    Args:
        command: Name of a module of `robust_npe.commands`.
        words: Options of Hydra and overrides, as on the command line.
    """
    try:
        with interruptible():
            return _launch(command, words)
    except USER_ERRORS as error:
        return fail(str(error), status=1 if isinstance(error, PartialResultError) else 2)
    except (HydraException, OmegaConfBaseException) as error:
        return fail(hydra_message(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        return fail(_system_error(error))


def _launch(command: str, words: Sequence[str]) -> int:
    prepare_hydra()
    version.setbase("1.3")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand exceptions to us instead of printing them
    options = _options(words)
    failures: list[Exception] = []

    def job(config: DictConfig) -> None:
        logging.raiseExceptions = False  # a log that cannot be written must not fill the screen
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            with as_worker():
                result = tracked(partial(_run_command, command, config), USER_ERRORS)
            if result is not None and not sys.stderr.isatty():
                _show(result)
            return
        try:
            _show(_run_command(command, config))
            _warn_of_sweep()
        except Exception as error:  # noqa: BLE001  # raised again where Hydra does not print it
            failures.append(error)

    if options.multirun:
        return _sweep(command, options, job)
    _hydra(command, options, job)
    if failures:
        raise failures[0]
    return 0


def _warn_of_sweep() -> None:
    """Say so if an experiment is a sweep that was not asked for; what was given is one job's."""
    hydra = HydraConfig.get()
    words = OmegaConf.to_container(hydra.overrides.task, resolve=False) or ()
    given = {str(word).lstrip("+").partition("=")[0] for word in words}
    swept = [key for key in hydra.sweeper.get("params") or {} if key not in given]
    if swept:
        log.warning(
            "the experiment is a sweep over %s: this was one job, -m runs all", ", ".join(swept)
        )


def _show(result: Any) -> None:
    sys.stdout.write(f"{getattr(result, 'text', result)}\n")


def _sweep(command: str, options: Namespace, job: Callable[[DictConfig], None]) -> int:
    """Run all jobs, show a table of what became of them, and return the exit status."""
    check_folders(options.overrides)
    options.overrides += SWEEP
    with watched() as watch:
        try:
            with interruptible(watch.at_rest):
                _hydra(command, options, job)
        # of the launcher, such as a pool of which a process was killed
        except (Exception, KeyboardInterrupt) as error:
            watch.stop()
            if watch.statuses:  # else nothing began
                text, _ = watch.report(ended=isinstance(error, Exception))
                sys.stdout.write(f"{text}\n")
            raise
    text, succeeded = watch.report()
    sys.stdout.write(f"{text}\n" if watch.jobs else "")
    return 0 if succeeded else 1


def _hydra(command: str, options: Namespace, job: Callable[[DictConfig], None]) -> None:
    try:
        _run(command, options, job)
    except (BrokenPipeError, HydraException):  # some of the latter are an OSError, too
        raise
    except OSError:  # no job: Hydra cannot make the folder of logs, as on a read-only disk
        with TemporaryDirectory(prefix="robust-npe-") as folder:
            options.overrides += [f"hydra.{mode}.dir={folder}" for mode in ("run", "sweep")]
            _run(command, options, job)


def _run(command: str, options: Namespace, job: Callable[[DictConfig], None]) -> None:
    _run_hydra(
        args=options,
        args_parser=get_args_parser(),
        task_function=job,
        config_path=str(config_directory()),
        config_name=command,
    )


def _run_command(command: str, config: DictConfig) -> Any:
    """Return a command's result; errors of the system become those of a user."""
    threads = convert(config.threads, int, "threads")
    require(0 < threads <= MAX_THREADS, "threads", threads, f"between 1 and {MAX_THREADS}")
    torch.set_num_threads(threads)
    try:
        return importlib.import_module(f"robust_npe.commands.{command}").main(config)
    except OSError as error:
        raise StoreError(_system_error(error)) from error
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or "allocate memory" in str(error)):
            raise
        raise ConfigError(
            "there is not enough memory for these settings: choose a smaller network, or lower "
            "evaluation.batch_size, training.batch_size or the number of samples."
        ) from error


def _system_error(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or str(error).rstrip('.')}."


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong without printing how to use the command."""
        raise ConfigError(f"{message}. Add --help to the command to see what it takes.")


def _options(words: Sequence[str]) -> Namespace:
    """Return options and overrides, in any order, checked before anything is composed."""
    parser = _Parser(parents=[get_args_parser()], add_help=False, allow_abbrev=False)
    options = parser.parse_intermixed_args(list(words))
    for name in REFUSED:
        option = f"--{name.replace('_', '-')}"
        require(getattr(options, name) is None, option, getattr(options, name), "left out")
    modes = [name for name in ("multirun", "cfg", "info") if getattr(options, name)]
    require(len(modes) < 2, "options", [f"--{name}" for name in modes], "one of these at most")
    require(bool(options.cfg) or not options.resolve, "--resolve", True, "used with --cfg")
    options.overrides = [
        _runs(word, options.multirun) if word.partition("=")[0] in ("run", "attack.run") else word
        for word in options.overrides
    ]
    keys = [word.partition("=")[0] for word in options.overrides]
    for word, key in zip(options.overrides, keys, strict=True):
        require(not _is_single(key) or keys.count(key) == 1, key, "given twice", "given once")
        _check_override(word, sweeps=options.multirun)
    return options


def _runs(word: str, sweeps: bool) -> str:
    """Return `run=a,b` as what Hydra takes for a list; an id may look like a number."""
    several = word.startswith("run=") and "," in word
    listed = not sweeps and several and not word.startswith(("run=[", "run='", 'run="'))
    word = f"run=[{word.partition('=')[2]}]" if listed else word
    return RUN_ID.sub(r"'\1'", word)


def _is_single(key: str) -> bool:
    """Tell whether a key is a group of which one choice holds."""
    return (config_directory() / key).is_dir() and key not in LISTS


def _check_override(word: str, sweeps: bool) -> None:
    """Check what Hydra or the file system would take for something else, or not explain."""
    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException as error:
        raise ConfigError(
            f"{word!r} cannot be read as key=value. A value with other characters than letters, "
            "digits and -_./ needs quotes inside of those of the shell: 'key=\"value\"'."
        ) from error
    key, text = override.key_or_group, word.partition("=")[2]
    require(bool(key), "override", word, "key=value")
    if override.is_delete():
        return
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else [value]
    if key == "output_dir":
        require("" not in values and None not in values, key, text, "the path of a folder")
    single = _is_single(key)
    if single and any(v == "" or not isinstance(v, str | QuotedString) for v in values):
        names = re.sub(r"[\[\] ]", "", text) if text.startswith("[") else "a,b"
        raise ConfigError(
            f"{key}={text} is not valid: it must be one choice. To run the command with each of "
            f"several: -m {key}={names}."
        )
    if override.is_sweep_override() and not sweeps and not override.is_hydra_override():
        raise ConfigError(
            f"{word} names several values: add -m to run the command with each of them"
            + ("." if single else f", or write {key}=[{text}] for a list.")
        )
