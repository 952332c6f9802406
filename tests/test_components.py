"""Building from nodes: nothing but components of the right kind, and completely described."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import pytest

import robust_npe
from robust_npe import components
from robust_npe.annotations import convert
from robust_npe.attacks import Attack, Objective
from robust_npe.checks import ConfigError
from robust_npe.components import (
    Component,
    bind,
    build,
    complete,
    describe,
    find_class,
    written,
)
from robust_npe.config import config_directory
from robust_npe.defenses import Defense
from robust_npe.estimators import MAF, Embedding, Head
from robust_npe.metrics import Metric
from robust_npe.random import draws_from, stream
from robust_npe.tasks.base import Task

KINDS = (Task, Head, Embedding, Defense, Attack, Objective, Metric)
HERE = "test_components_module"


class Part(Component):
    name = "part"

    def __init__(self, size: int = 3) -> None:
        self.size = size


class Whole(Component):
    name = "whole"
    version: ClassVar[int] = 2

    def __init__(
        self,
        rate: float,
        count: int = 1,
        label: str | None = None,
        flag: bool = False,
        mode: Literal["a", "b"] = "a",
        sizes: Sequence[int] = (1, 2),
        bounds: Mapping[str, Sequence[float]] | None = None,
        file: Path | None = None,
        part: Part | None = None,
        parts: Sequence[Part] = (),
    ) -> None:
        self.arguments = {k: v for k, v in locals().items() if k not in ("self", "__class__")}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Make the classes above known under a name that was consented to."""
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(HERE, None))
    module.Part, module.Whole, module.function = Part, Whole, lambda: None
    monkeypatch.setitem(importlib.sys.modules, HERE, module)
    monkeypatch.setenv("ROBUST_NPE_MODULES", HERE)
    return lambda **arguments: {"_target_": f"{HERE}.Whole", **arguments}


def test_arguments_arrive_converted_and_nodes_are_built_in_lists_too(here):
    part = {"_target_": f"{HERE}.Part", "size": 7}
    node = here(rate=1, count=3.0, file="~/x", part=part, parts=[part], bounds={"u": [0, 1]})
    built = build(node, "whole", Whole).arguments
    assert (built["rate"], type(built["rate"])) == (1.0, float)
    assert (built["count"], type(built["count"])) == (3, int)
    assert built["file"] == Path("~/x").expanduser()
    assert built["bounds"] == {"u": [0.0, 1.0]}
    assert [p.size for p in (built["part"], *built["parts"])] == [7, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": "abc"}, "whole.rate='abc' is not valid: it must be a finite number"),
        ({"rate": True}, "whole.rate=True"),
        ({"rate": float("inf")}, "whole.rate=inf"),
        ({"rate": None}, "whole.rate=None"),
        ({"count": 1.5}, "whole.count=1.5 is not valid: it must be an integer"),
        ({"flag": 1}, "whole.flag=1 is not valid: it must be true or false"),
        ({"label": 3}, "whole.label=3 is not valid: it must be text"),
        ({"mode": "c"}, "whole.mode='c' is not valid: it must be one of a, b"),
        ({"sizes": 3}, "whole.sizes=3 is not valid: it must be a list, each entry an integer"),
        ({"sizes": "12"}, "whole.sizes='12'"),
        ({"sizes": [1, "x"]}, r"whole.sizes\[1\]='x'"),
        ({"bounds": {"u": ["x"]}}, r"whole.bounds.u\[0\]='x'"),
        ({"part": "kl_reverse"}, "whole.part='kl_reverse' is not valid: it must be a node"),
        ({"part": {"_target_": f"{HERE}.Whole"}}, "dotted name of a Part class"),
        ({"part": {"_target_": f"{HERE}.Part", "size": "x"}}, "whole.part.size='x'"),
        ({"parts": [{"_target_": f"{HERE}.function"}]}, r"whole.parts\[0\]._target_"),
        ({"colour": 1}, "whole has no key 'colour'; its keys are rate, count"),
        ({"_partial_": True}, "whole has no key '_partial_'"),
    ],
)
def test_wrong_arguments_are_named(here, change, message):
    with pytest.raises(ConfigError, match=message):
        build(here(**{"rate": 1.0, **change}), "whole", Whole)


def test_missing_arguments_are_named(here):
    with pytest.raises(ConfigError, match=r"whole\.rate is not set; it must be a finite number"):
        build(here(), "whole", Whole)


def test_bound_nodes_are_checked_at_once():
    node = {"_target_": "robust_npe.estimators.MAF"}
    given = ("dim_theta", "dim_context")
    with draws_from(stream(0)):
        head = bind(node | {"hidden": [7]}, "estimator", Head, given)(2, 3)
    assert head.context.out_features == 21
    with pytest.raises(ConfigError, match="estimator has no key 'depth'"):
        bind(node | {"depth": 3}, "estimator", Head, given)
    with pytest.raises(ConfigError, match="estimator has no key 'dim_theta'"):
        bind(node | {"dim_theta": 3}, "estimator", Head, given)


def test_defaults_are_filled_in_at_every_depth(here):
    filled = complete({"other": 1, "list": [here(rate=1, part={"_target_": f"{HERE}.Part"})]})
    (node,) = filled["list"]
    assert node["part"] == {"_target_": f"{HERE}.Part", "size": 3}
    assert node["sizes"] == [1, 2]
    assert (node["label"], node["mode"]) == (None, "a")
    assert complete({"_target_": "torch.load", "x": 1}) == {"_target_": "torch.load", "x": 1}


def test_identity_has_defaults_versions_and_the_content_of_files(here, tmp_path, monkeypatch):
    def identity(**arguments):
        return describe(here(**{"rate": 1.0, **arguments}), "whole", Whole)

    assert identity() == identity(count=1) == identity(rate=1, sizes=[1, 2])
    assert identity() != identity(count=2)
    assert identity()["version"] == [2, 1]
    file = tmp_path / "file"
    file.write_text("one")
    first = identity(file=str(file))
    copy = tmp_path / "copy"
    copy.write_text("one")
    assert identity(file=str(copy)) == first
    file.write_text("two")
    assert identity(file=str(file)) != first
    with pytest.raises(ConfigError, match=r"whole\.file='.*nothing' is not valid"):
        identity(file=str(tmp_path / "nothing"))
    monkeypatch.setattr(Whole, "version", 3)
    assert identity()["version"] == [3, 1]
    part = {"_target_": f"{HERE}.Part"}
    before = identity(part=part)
    assert before["arguments"]["part"]["arguments"] == {"size": 3}
    monkeypatch.setattr(Component, "version", 2)
    assert identity(part=part) != before


def test_a_changed_default_changes_the_identity(here, monkeypatch):
    def identity():
        return describe(here(rate=1.0), "whole", Whole)

    before = identity()
    monkeypatch.setattr(Whole.__init__, "__defaults__", (5, *Whole.__init__.__defaults__[1:]))
    assert identity()["arguments"]["count"] == 5
    assert identity() != before


DANGEROUS = (
    "os.system",
    "builtins.eval",
    "torch.load",
    "torch.hub.load",
    "torch.utils.collect_env.run",
    "torch.utils.cpp_extension.load_inline",
    "torch.fx.graph_module._exec_with_source",
    "torch.distributed.run.main",
    "torch.nn.Linear",
    "robust_npe.store.simulations._create",
    "robust_npe.store.simulations.open_memmap",
    "robust_npe.tasks.base.torch.load",
    "robust_npe.tasks.Task",
    "robust_npe",
    "robust_npe.",
    ".robust_npe.tasks.SIR",
    "robust_npe..tasks.SIR",
    "robust_npe_evil.tasks.SIR",
    "robust_npe.tasks.SIR\n",
    "",
    None,
    3,
    ["robust_npe.tasks.SIR"],
)


@pytest.mark.parametrize("target", DANGEROUS)
@pytest.mark.parametrize("kind", [Task, Attack, Component])
def test_nothing_else_is_built(target, kind):
    with pytest.raises(ConfigError, match="_target_"):
        build({"_target_": target, "command": "touch pwned"}, "task", kind)


def modules():
    yield robust_npe
    for found in pkgutil.walk_packages(robust_npe.__path__, "robust_npe."):
        try:
            yield importlib.import_module(found.name)
        except ImportError as error:  # adapters need the library that they are for
            if (error.name or "").partition(".")[0] not in ("sbi", "lampe"):
                raise


def test_of_everything_importable_only_classes_of_the_kind_pass():
    seen = 0
    for module in modules():
        for attribute in dir(module):
            for kind in KINDS:
                try:
                    found = find_class(f"{module.__name__}.{attribute}", kind, "_target_")
                except ConfigError:
                    continue
                assert inspect.isclass(found)
                assert issubclass(found, kind)
                assert found.__module__.startswith("robust_npe.")
                seen += 1
    assert seen > 60  # each task, head, ... at two places at least


def every_component():
    found = set()
    for module in modules():
        for value in vars(module).values():
            fits = inspect.isclass(value) and issubclass(value, KINDS)
            if fits and not inspect.isabstract(value):
                found.add(value)
    return sorted(found, key=lambda c: c.__name__)


GIVEN = {"dim_theta", "dim_context", "dim_x", "num_classes"}


def named_by_yaml():
    files = sorted(config_directory().rglob("*.yaml"))  # below `hydra` are parts of Hydra
    texts = [path.read_text() for path in files if "hydra" not in path.parts[-3:]]
    return sorted({t for text in texts for t in re.findall(r"_target_: (\S+)", text)})


@pytest.mark.parametrize("target", named_by_yaml())
def test_every_argument_that_a_configuration_can_set_can_be_checked(target):
    cls = find_class(target, Component, "_target_")
    hints = typing.get_type_hints(cls.__init__)
    for key in components._parameters(cls):
        if key not in GIVEN:
            with pytest.raises(ConfigError, match="it must be"):
                convert(object(), hints[key], key, components._check_node)


def test_classes_have_unique_names():
    names = [cls.__name__ for cls in every_component()]
    assert len(names) == len(set(names))
    assert MAF.__name__ in names


def test_settings_as_tables_show_them(monkeypatch):
    monkeypatch.setattr(
        components, "find_class", lambda target, *_: {"w": Whole, "p": Part}[target]
    )
    node = {"_target_": "w", "rate": 0.5, "count": 1, "flag": True, "sizes": [1, 2]}
    assert written(node) == "rate=0.5 flag=True"
    parts = {"part": {"_target_": "p", "size": 4}, "parts": [{"_target_": "p"}]}
    assert written(node | parts, skip=["rate", "flag"]) == "part=part(size=4) parts=[part]"
