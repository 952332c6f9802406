"""What an audit found: tables, a verdict in plain words, and a page for colleagues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from robust_npe.auditing.findings import Findings
from robust_npe.auditing.steps import Commands, next_steps
from robust_npe.auditing.verdict import verdict
from robust_npe.files import write_atomically
from robust_npe.tasks import Task

__all__ = ["Report"]


@dataclass(frozen=True)
class Report:
    """What an audit found.

    Attributes:
        tables: Tidy tables by name, see `docs/audit.md`.
        attack: Name of the attack.
        unit: What a radius is, in words.
        about: What was audited and how, in words: title and text.
        task: Draws observations in pictures, where it is known.
        commands: How to go on.
    """

    tables: Mapping[str, pd.DataFrame]
    attack: str
    unit: str
    about: Mapping[str, str]
    task: Task | None = None
    commands: Commands = field(default_factory=Commands)

    @property
    def findings(self) -> Findings:
        """The few numbers that verdict and summary are made of."""
        return Findings.of(self.tables, self.attack)

    @property
    def verdict(self) -> str:
        """Two sentences of plain words, which claim no more than was measured."""
        return verdict(self.findings)

    @property
    def next_steps(self) -> list[tuple[str, str]]:
        """What to do next: sentences, each with a command (or nothing)."""
        return next_steps(self.findings, self.commands)

    def save(self, folder: Path | str, report: bool = True) -> Path:
        """Write the tables (csv), and with `report` figures (png) and `audit.html`, which needs no
        network and no other file.

        Returns:
            The folder.
        """
        folder = Path(folder)
        for name, table in self.tables.items():
            content = table.to_csv(index=False, lineterminator="\n").encode()
            write_atomically(folder / f"{name}.csv", content)
        write_atomically(folder / "verdict.txt", f"{self.verdict}\n".encode())
        if report:
            from robust_npe.auditing.page import page  # matplotlib and jinja2 are slow to import
            from robust_npe.plotting.audit import figures, png

            drawn = figures(self.tables, self.attack, self.task)
            pictures = {name: png(figure) for name, figure in drawn.items()}
            for name, content in pictures.items():
                write_atomically(folder / f"{name}.png", content)
            write_atomically(folder / "audit.html", page(self, pictures).encode())
        return folder

    def __str__(self) -> str:
        """Return the short summary for terminals."""
        found = self.findings
        flags = [f"Flag {name}, {text}." for name, text in found.flags.items()]
        return "\n\n".join((found.table.to_string(index=False), self.verdict, *flags))
