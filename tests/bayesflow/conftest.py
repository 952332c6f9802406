"""bayesflow needs Python 3.12 and an environment of its own: all of this is skipped elsewhere."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


class Missing(pytest.Module):
    def collect(self):
        pytest.skip("needs bayesflow 2 and Python 3.12: make test-bayesflow; untried here")


def pytest_pycollect_makemodule(module_path, parent):
    if find_spec("bayesflow") is None:
        return Missing.from_parent(parent, path=module_path)
    os.environ["KERAS_BACKEND"] = "torch"
    return None


def pytest_collection_modifyitems(items):
    for item in items:  # keras and what it builds on warn about their own future
        if "tests/bayesflow" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("default"))
