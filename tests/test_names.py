"""A class name means one thing in the whole package."""

import ast
from collections import defaultdict
from pathlib import Path

import robust_npe


def test_no_two_modules_define_the_same_public_class():
    modules = defaultdict(list)
    for path in sorted(Path(robust_npe.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(path.name)
    assert len(modules) > 50, "the walk does not reach the package"
    twice = {name: places for name, places in modules.items() if len(places) > 1}
    assert twice == {}
