"""Sweeps: many jobs of one command, what became of each, and how far they are."""

from __future__ import annotations

from robust_npe.sweeps.jobs import FAILED, JobStatus, read_statuses, tracked
from robust_npe.sweeps.watch import SweepWatch, check_folders, watched

__all__ = [
    "FAILED",
    "JobStatus",
    "SweepWatch",
    "check_folders",
    "read_statuses",
    "tracked",
    "watched",
]
