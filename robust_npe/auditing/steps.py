"""What to do after an audit, with the commands."""

from __future__ import annotations

from dataclasses import dataclass

from robust_npe.auditing.findings import Findings

__all__ = ["REPEAT", "Commands", "next_steps"]

REPEAT = "Repeat the training with a defense."
READ = "Read what an audit can and cannot say: docs/audit.md in the sources of robust-npe."
UNRESOLVED = {"unresolved", "zero_gradients"}  # the latter where nothing changes, too
_METHOD = "rn.attacks.Restarts(rn.attacks.PGD(rn.attacks.KLForward(), steps=200), 10)"


@dataclass(frozen=True)
class Commands:
    """How to go on, as one types it; "" where that is not known. The defaults are for `rn.audit`.

    Attributes:
        audit: This audit.
        stronger: It, with a stronger attack.
        further: It, at twice the largest radius.
        simulations: It, with simulations.
        defended: Training with a defense, and
        audit_defended: the audit of what comes out at the same observations.
        training: What `defended` is, in a sentence.
    """

    audit: str = ""
    stronger: str = f"rn.audit(posterior, x, ..., method={_METHOD})"
    further: str = "rn.audit(posterior, x, ..., epsilon=...)"
    simulations: str = "rn.audit(posterior, x, ..., simulations=(theta, x_simulated))"
    defended: str = "rn.train(task, defense=rn.defenses.FIM(beta=0.01))"
    audit_defended: str = "rn.audit(defended_posterior, x, ...)"
    training: str = REPEAT


def next_steps(found: Findings, commands: Commands) -> list[tuple[str, str]]:
    """Return what to do next: sentences, each with a command or nothing."""
    steps = []
    if "unresolved" in found.flags:
        steps.append(("Take radii that float32 tells from 0 beside x.", ""))
    if set(found.flags) - UNRESOLVED:
        text = "Repeat the audit with a stronger attack, or another one: the worst counts."
        steps.append((text, commands.stronger))
    if found.unusual and not found.by_chance:
        text = (
            "Look at the unusual observations first: a unit, an outlier, a missing effect in the "
            "simulator? No posterior is to be trusted at what it has never seen."
        )
        steps.append((text, ""))
    if found.num_moved:
        steps.append((commands.training, commands.defended))
        steps.append(("Audit that posterior at the same observations.", commands.audit_defended))
    if not found.num_moved and not found.flags:
        steps.append(("Look further out.", commands.further))
    if not found.clean:
        text = "Bring simulations that the posterior was not trained on: quality is unknown."
        steps.append((text, commands.simulations))
    steps.append((READ, ""))
    return steps
