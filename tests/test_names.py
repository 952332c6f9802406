"""A class name means one thing in the whole package."""

import ast
from collections import defaultdict
from pathlib import Path

import robust_npe

SHARED: set[str] = set()  # names that still stand in two modules; nothing is added here


def test_no_two_modules_define_the_same_public_class():
    modules = defaultdict(list)
    for path in sorted(Path(robust_npe.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules[node.name].append(path.name)
    assert len(modules) > 50, "the walk does not reach the package"
    twice = {name: places for name, places in modules.items() if len(places) > 1}
    assert {name: twice[name] for name in twice.keys() - SHARED} == {}
    assert twice.keys() >= SHARED, "unique by now: take it off the list"
