"""The command line: `robust-npe <command> [group=choice] [key=value] ...`."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from robust_npe import __version__
from robust_npe.checks import ConfigError, PartialResultError
from robust_npe.config import TrainConfig, config_directory, register_schemas
from robust_npe.files import StoreError

__all__ = ["main"]

log = logging.getLogger(__name__)

COMMANDS = {
    "train": "simulate, train, attack, measure; write tidy tables and plots",
    "attack": "evaluate another attack on the estimator of an earlier run",
    "simulate": "make (or complete) a simulation set",
    "reference": "compute samples of true posteriors from prior and likelihood",
    "collect": "gather the tables of all runs into one",
}

HELP = """robust-npe: adversarial robustness of amortized Bayesian inference.

usage: robust-npe <command> [group=choice] [key=value] ...

commands
{commands}

examples
  robust-npe train
  robust-npe train task=lotka_volterra defense=fim beta=0.1
  robust-npe train -m task=gaussian_linear,sir defense=none,fim beta=0.001,0.01

`robust-npe <command> --help` lists groups, choices and keys of a command.
Tab completion in bash: eval "$(robust-npe completion)"
"""

USER_ERRORS = (
    ConfigError,
    FileNotFoundError,
    FloatingPointError,
    ImportError,
    PartialResultError,
    StoreError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: Words after the program's name; those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        listing = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
        sys.stdout.write(HELP.format(commands=listing))
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"robust-npe {__version__}\n")
        return 0
    if words[0] == "completion":
        script = Path(__file__).with_name("completion.bash").read_text()
        sys.stdout.write(script.replace("@COMMANDS@", " ".join(COMMANDS)))
        return 0
    if words[0] not in COMMANDS:
        return _fail(_unknown_command(words[0]))
    try:
        _run_hydra(*words)
    except BrokenPipeError:  # e.g. `... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return _fail("interrupted; finished artefacts are kept, the same command continues", 130)
    except MissingConfigException as error:
        return _fail(_missing_choice(error))
    except (HydraException, OmegaConfBaseException) as error:
        return _fail(_hydra_message(error))
    except USER_ERRORS as error:
        return _fail(str(error), status=1 if isinstance(error, PartialResultError) else 2)
    return 0


def _run_hydra(command: str, *overrides: str) -> None:
    register_schemas()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hand exceptions to us instead of printing them
    sys.argv = ["robust-npe", *overrides]

    failures: list[Exception] = []

    def job(config: DictConfig) -> None:
        torch.set_num_threads(int(config.threads))
        try:
            result = importlib.import_module(f"robust_npe.commands.{command}").main(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                # launchers show one failure of a sweep at most: each job's log holds its own
                log.error("failed: %s", error, exc_info=not isinstance(error, USER_ERRORS))
                raise
            failures.append(error)
        else:
            sys.stdout.write(f"{getattr(result, 'text', result)}\n")

    decorate = hydra.main(
        config_path=str(config_directory()), config_name=command, version_base="1.3"
    )
    decorate(job)()
    if failures:
        raise failures[0]


def _fail(message: str, status: int = 2) -> int:
    sys.stderr.write(f"robust-npe: {message}\n")
    return status


def _unknown_command(word: str) -> str:
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown command {word!r}.{hint} Commands: {', '.join(COMMANDS)}."


def _missing_choice(error: MissingConfigException) -> str:
    """Name the choices of a group, those in subfolders included."""
    if "hydra/launcher/joblib" in str(error.missing_cfg_file):
        return "hydra/launcher=cores needs the joblib launcher: pip install '.[cores]'."
    group, _, choice = (error.missing_cfg_file or "").partition("/")
    folder = config_directory() / group
    if not choice or not folder.is_dir():
        return str(error)
    choices = sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))
    return f"{group}={choice} does not exist. Choices: {', '.join(choices)}."


def _hydra_message(error: Exception) -> str:
    """Say in one line what Hydra or OmegaConf found wrong."""
    if unknown := re.match(r"Could not override '([^']+)'", str(error)):
        return _unknown_key(unknown[1])
    cause = f" ({error.__cause__})" if error.__cause__ else ""
    return " ".join(
        re.sub(r"\s*(full_key|reference_type|object_type)[:=]\S*", "", f"{error}{cause}").split()
    )


def _unknown_key(key: str) -> str:
    names = [f.name for f in dataclasses.fields(TrainConfig)]
    close = difflib.get_close_matches(key, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"there is no key {key!r}.{hint} Add `--cfg job` to the command to see all keys."


if __name__ == "__main__":
    sys.exit(main())
