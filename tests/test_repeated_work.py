"""Commands that are killed and repeated, see `tests.faults`."""

from __future__ import annotations

from tests.faults import torture


def test_killed_commands_end_as_if_nothing_had_happened(tmp_path):
    report = torture(tmp_path, kills=12)
    assert report.kills >= 12
    assert report.finished
    assert report.steps_done >= report.steps_needed
