"""Audits: can a posterior be trusted at an observation?"""

from __future__ import annotations

from robust_npe.auditing.case import Case, checked_rows
from robust_npe.auditing.report import Report
from robust_npe.auditing.run import examine
from robust_npe.auditing.settings import AuditSettings
from robust_npe.auditing.steps import Commands
from robust_npe.auditing.threat import checked_radii, unit_text

__all__ = [
    "AuditSettings",
    "Case",
    "Commands",
    "Report",
    "checked_radii",
    "checked_rows",
    "examine",
    "unit_text",
]
