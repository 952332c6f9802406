"""What may follow an audit, as commands that run as they are printed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robust_npe.auditing import Commands
from robust_npe.auditing.steps import REPEAT
from robust_npe.commands.audited import Audited
from robust_npe.commands.runs import run_folder, training_command
from robust_npe.commands.words import experiment_of, key_of, typed, with_changes
from robust_npe.defenses import FIM, Defense

__all__ = ["commands_of"]

STRONGER = {"auto-1": {"attack": "worst_case"}, "worst_case": {"objective": "kl_reverse"}}
BETA = 0.01
INSIDE_SBI = (
    "import robust_npe as rn; "
    'builder = rn.integrations.sbi.defended("maf", rn.defenses.FIM(beta=0.01))'
)
ANEW = (
    "Train on the same problem with a defense. Inside of sbi that is NPE(prior, "
    "density_estimator=builder), with the builder of robust_npe.integrations.sbi.defended."
)


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
    if audited.defense is not None:
        sentence, training, afterwards = REPEAT, *_defended(config, words, audited.defense)
    else:
        sentence, training, afterwards = ANEW, *_anew(config, words)
    return Commands(
        shlex.join(words),
        with_changes(words, stronger),
        with_changes(words, {"epsilon": f"{2 * largest:g}"}),
        with_changes(words, {"simulations": "pairs.npz"}),
        training,
        afterwards,
        sentence,
    )


def _defended(config: Mapping[str, Any], words: list[str], defense: Defense) -> tuple[str, str]:
    """Return how to train as the run was trained, with a (stronger) defense, and the audit of what
    comes out of it."""
    folder = run_folder(str(config["run"]), Path(config["output_dir"]) / "runs")
    beta = 10 * float(defense.beta or BETA) if isinstance(defense, FIM) else BETA
    if not (command := training_command(folder)):
        return "", ""
    training = with_changes(command, {"defense": "fim", "beta": f"{beta:g}"})
    return training, _audit_of(training, config, words) or ""


def _anew(config: Mapping[str, Any], words: list[str]) -> tuple[str, str]:
    """Return how to train on the task, or else the simulations, that came with a posterior from
    elsewhere, and the audit of what comes out of it; else how to train inside of sbi."""
    before, after = words[: words.index("audit")], words[words.index("audit") + 1 :]
    folders = [w for i, w in enumerate(after) if "--config-dir" in after[max(0, i - 1) : i + 1]]
    task = [word for word in after if key_of(word) == "task"]
    if not task and (given := config["simulations"]) is not None:
        paths = given if isinstance(given, list) else [given]
        task = ["task=files", f"task.theta={paths[0]}", f"task.x={paths[-1]}"]
    if task:
        place = [word for word in after if key_of(word) == "output_dir"]
        changes = {"defense": "fim", "beta": f"{BETA:g}"}
        training = with_changes([*before, "train", *folders, *task, *place], changes)
        others = dict.fromkeys(("posterior", "builder", "trust", "task", "simulations"))
        if audit := _audit_of(training, config, words, others):
            return training, audit
    return INSIDE_SBI, ""


def _audit_of(
    training: str,
    config: Mapping[str, Any],
    words: list[str],
    changes: Mapping[str, None] | None = None,
) -> str | None:
    """Return the audit of what a command trains, at the same observations; None where the command
    cannot be understood."""
    experiment = experiment_of(training)
    if experiment is None:
        return None
    output, run = experiment.config["output_dir"], experiment.run_id
    where = run if output == config["output_dir"] else str(Path(output) / "runs" / run)
    return with_changes(words, {**(changes or {}), "run": where})
