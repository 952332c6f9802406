"""The command line: `robust-npe <command> [group=choice] [key=value] ...`.

Help, version and completion answer at once; everything else is imported when a command runs.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from robust_npe import __version__
from robust_npe.checks import ConfigError, require
from robust_npe.interruption import INTERRUPTED, Terminated, end_with_status_of, interruptible

__all__ = ["COMMANDS", "entry", "main"]

COMMANDS = {
    "train": "simulate, train, attack, measure; write tidy tables and plots",
    "attack": "evaluate another attack on the estimator of an earlier run",
    "audit": "examine a trained posterior at your observations; write a report",
    "simulate": "make (or complete) a simulation set",
    "reference": "compute samples of true posteriors from prior and likelihood",
    "collect": "gather the tables of all runs into one",
    "compare": "compare two runs, observation by observation",
    "pareto": "show which settings of defenses no others beat, and what beta costs",
    "list": "show what is stored: kind, size, age, which runs use it",
    "prune": "remove what is old, unfinished or not used",
}

HELP = """robust-npe: adversarial robustness of amortized Bayesian inference.

usage: robust-npe [--module FILE.py] <command> [group=choice] [key=value] ...

commands
{commands}

your own code
  --module FILE.py      lets the configuration name the classes of a file of yours (repeatable;
                        or ROBUST_NPE_MODULES=FILE.py)
  --config-dir FOLDER   adds your own YAML files, e.g. FOLDER/task/mine.yaml for task=mine

examples
  robust-npe train
  robust-npe train task=lotka_volterra defense=fim beta=0.1
  robust-npe train -m task=gaussian_linear,sir defense=none,fim beta=0.001,0.01

`robust-npe <command> --help` lists groups, choices and keys of a command.
Tab completion in bash: eval "$(robust-npe completion)"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    Args:
        arguments: Words after the program's name; those of the process if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with interruptible():
            status = _run(words)
            sys.stdout.flush()
            return status
    except ConfigError as error:
        return fail(str(error))
    except KeyboardInterrupt as error:
        return fail(INTERRUPTED, 143 if isinstance(error, Terminated) else 130)
    except BrokenPipeError:  # e.g. `... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def fail(message: str, status: int = 2) -> int:
    """Say what went wrong and return the exit status."""
    sys.stderr.write(f"robust-npe: {message}\n")
    return status


def _run(words: list[str]) -> int:
    if words[:1] == ["--complete"]:
        from robust_npe.completion import complete

        sys.stdout.write("\n".join(complete(words[1:], COMMANDS)))
        return 0
    words = _consented(words)
    if not words or words[0] in ("-h", "--help", "help"):
        listing = "\n".join(f"  {name:<10}{text}" for name, text in COMMANDS.items())
        sys.stdout.write(HELP.format(commands=listing))
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"robust-npe {__version__}\n")
        return 0
    if words[0] == "completion":
        sys.stdout.write(Path(__file__).with_name("completion.bash").read_text())
        return 0
    if words[0] not in COMMANDS:
        return fail(_unknown_command(words[0]))
    from robust_npe.launch import launch

    return launch(words[0], *words[1:])


def _consented(words: Sequence[str]) -> list[str]:
    """Take `--module` out of the words, which is consent to run the user's own code."""
    rest, given = [], iter(words)
    for word in given:
        option, assigned, value = word.partition("=")
        if option != "--module":
            rest.append(word)
            continue
        value = value if assigned else next(given, "")
        require(bool(value), "--module", value, "followed by a Python file or a module's name")
        from robust_npe.consent import allow

        allow(value)
    return rest


def _unknown_command(word: str) -> str:
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"unknown command {word!r}.{hint} Commands: {', '.join(COMMANDS)}."


def entry() -> NoReturn:
    """Be the program: run the command line of this process and end it."""
    end_with_status_of(main)


if __name__ == "__main__":
    entry()
