"""`robust-npe audit`: examine a posterior, of a run or of one's own, at one's own observations."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import robust_npe
from robust_npe.auditing import AuditSettings, examine
from robust_npe.checks import ConfigError, require
from robust_npe.commands.audited import audited_posterior, audited_run
from robust_npe.commands.following import commands_of
from robust_npe.config import AuditConfig, checked
from robust_npe.store import Store
from robust_npe.store.parts import PARTS, part

__all__ = ["main"]

log = logging.getLogger(__name__)

VERSION = 3  # raise it when the same settings come to mean other tables or another page
OF_POSTERIORS = {"task": None, "simulations": None, "builder": None, "trust": False}


def main(config: DictConfig) -> str:
    """Audit the posterior of an earlier run and return the summary.

    Args:
        config: Composed configuration, see `conf/audit.yaml`.

    Raises:
        ConfigError: There is no such run, or the observations do not fit it; raised before any
            work is done.
    """
    if OmegaConf.is_missing(config, "x"):
        raise ConfigError("x is not set: x=<file>.")
    settings = checked(config, AuditConfig)
    _check(settings)
    finely = AuditSettings(**settings["audit"])
    look_at = audited_run if settings["run"] is not None else audited_posterior
    audited = look_at(settings)
    description = {
        **audited.description,
        "audit": {"class": "audit", "version": [VERSION, finely.version], **asdict(finely)},
        "seed": settings["seed"],
        "report": settings["report"],
    }

    def make(folder: Path) -> None:
        case = audited.case()
        software = f"robust-npe {robust_npe.__version__}, torch {torch.__version__}"
        commands = commands_of(settings, audited, max(case.epsilons))
        about = {
            **case.about,
            "Command": commands.audit,
            "Software": f"{software}, seed {settings['seed']}",
        }

        def keep(name: str, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
            return part(folder / PARTS / f"{name}.npz", make)

        found = examine(replace(case, about=about), audited.attack, finely, keep)
        report = replace(found, commands=commands)
        report.save(folder, settings["report"])
        (folder / "summary.txt").write_text(f"{report}\n")

    artefact = Store(settings["output_dir"]).get("audits", description, make, resumable=True)
    if not artefact.created:
        log.info("this audit was done before: nothing to compute")
    artefact.verify("summary.txt")
    files = sorted(p for p in artefact.path.iterdir() if p.name != "manifest.json")
    listing = "\n".join(["wrote:" if artefact.created else "found:", *(f"  {p}" for p in files)])
    return f"{(artefact.path / 'summary.txt').read_text()}\n{listing}"


def _check(settings: dict[str, Any]) -> None:
    """Raise a `ConfigError` unless there is one posterior, and all that is said is about it."""
    run, posterior, device = (settings[key] for key in ("run", "posterior", "device"))
    require(device == "cpu", "device", device, "cpu, where tasks and checks live")
    if (run is None) == (posterior is None):
        given = "neither is" if run is None else "both are"
        raise ConfigError(
            "one of run=<id of a run in the output_dir, or its folder> and posterior=<file> is to "
            f"be audited; {given} set."
        )
    for key, default in OF_POSTERIORS.items():
        if run is not None and settings[key] != default:
            raise ConfigError(f"{key} is of audits of posterior=<file>; a run knows its own.")
