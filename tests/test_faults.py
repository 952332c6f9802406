"""Commands that are killed and repeated, see `tests.faults`."""

from __future__ import annotations

import multiprocessing

import pytest

from tests.faults import INFERENCE, TRAINING, torture

forks = "fork" in multiprocessing.get_all_start_methods()


@pytest.mark.skipif(not forks, reason="processes are forked, so that all of their time is work")
@pytest.mark.parametrize(("workload", "kills"), [(TRAINING, 12), (INFERENCE, 2)])
def test_killed_commands_end_as_if_nothing_had_happened(workload, kills, tmp_path):
    report = torture(tmp_path, kills, workload)
    assert report.kills >= kills
    assert report.finished >= (2 if kills > 2 else 1)  # with one process, and with two
    assert report.steps_done >= report.steps_needed
