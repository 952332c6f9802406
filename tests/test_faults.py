"""Commands that are killed and repeated, see `tests.faults`."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.faults import torture

forks = "fork" in multiprocessing.get_all_start_methods()


@pytest.mark.skipif(not forks, reason="processes are forked, so that all of their time is work")
def test_killed_commands_end_as_if_nothing_had_happened(tmp_path):
    report = torture(tmp_path, kills=12)
    assert report.kills >= 12
    assert report.finished >= 2  # with one process, and with two
    assert report.steps_done >= report.steps_needed
