"""What may follow an audit, as commands that run as they are printed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robust_npe.auditing import Commands
from robust_npe.commands.audited import Audited
from robust_npe.commands.runs import run_folder, training_command
from robust_npe.commands.words import experiment_of, typed, with_changes
from robust_npe.defenses import FIM, Defense

__all__ = ["commands_of"]

STRONGER = {"auto-1": {"attack": "worst_case"}, "worst_case": {"objective": "kl_reverse"}}
BETA = 0.01
OF_SBI = 'robust_npe.integrations.sbi.defended("maf", rn.defenses.FIM(beta=0.01))'


def commands_of(config: Mapping[str, Any], audited: Audited, largest: float) -> Commands:
    """Return the commands.

    Args:
        config: Values of `AuditConfig`.
        audited: What they say.
        largest: The largest radius.
    """
    told = {key: config[key] for key in ("run", "posterior", "x") if config[key] is not None}
    words = typed("audit") or ["robust-npe", "audit", *(f"{k}={v}" for k, v in told.items())]
    stronger = STRONGER.get(audited.attack.name, {"attack": "auto"})
    defense = audited.defense
    training, afterwards = (OF_SBI, "") if defense is None else _defended(config, words, defense)
    return Commands(
        shlex.join(words),
        with_changes(words, stronger),
        with_changes(words, {"epsilon": f"{2 * largest:g}"}),
        with_changes(words, {"simulations": "pairs.npz"}),
        training,
        afterwards,
    )


def _defended(config: Mapping[str, Any], words: list[str], defense: Defense) -> tuple[str, str]:
    """Return how to train as the run was trained, with a (stronger) defense, and the audit of what
    comes out of it."""
    folder = run_folder(str(config["run"]), Path(config["output_dir"]) / "runs")
    beta = 10 * float(defense.beta or BETA) if isinstance(defense, FIM) else BETA
    if not (command := training_command(folder)):
        return "", ""
    training = with_changes(command, {"defense": "fim", "beta": f"{beta:g}"})
    experiment = experiment_of(training)
    if experiment is None:
        return training, ""
    output, run = experiment.config["output_dir"], experiment.run_id
    where = run if output == config["output_dir"] else str(Path(output) / "runs" / run)
    return training, with_changes(words, {"run": where})
