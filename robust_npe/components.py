"""Components: what a configuration names with `_target_`, and how such a node becomes an object.

A node holds the dotted name of a class and its constructor's arguments. Nothing else can be named:
the class must be a `Component` of the kind that its place expects, from this package or from a
module that the user consented to (`robust_npe.consent`), so that a configuration, wherever it comes
from, cannot run anything else. Arguments are checked against the annotations of the constructor.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import typing
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from robust_npe.annotations import convert, expected, no_component
from robust_npe.checks import ConfigError, require
from robust_npe.consent import digest_of, import_consented
from robust_npe.files import file_digest

__all__ = ["Component", "bind", "build", "complete", "describe", "find_class", "written"]

TARGET = "_target_"
MAX_TARGET = 200  # characters
MAX_BYTES = 2**34  # of a file that is an argument
YAML = int | float | str | Path | Sequence | Mapping | None  # types of defaults


class Component:
    """Something that a configuration can name: a task, a head, a defense, an attack, ...

    Attributes:
        name: What it is called in tables.
        version: Part of the identity of everything that is made with it. Raise it when the same
            arguments come to mean other numbers; that of a base class counts for all below it.
        constants: Names of class attributes that are part of the identity, too, because numbers
            depend on them: tables of presets, data files that come with the package.
        needs_theta: Whether it uses the parameters that generated x, which some tasks do not have.
    """

    name: str
    version: ClassVar[int] = 1
    needs_theta: bool = False
    constants: ClassVar[Sequence[str]] = ()

    @classmethod
    def sources(cls, arguments: Mapping[str, Any]) -> Iterable[str]:
        """Return modules of the user's own, beside those of the classes, that numbers depend on.

        Args:
            arguments: Those of the constructor, converted.
        """
        return ()


K = TypeVar("K", bound=Component)


def build(node: Mapping[str, Any], name: str, kind: type[K], **given: Any) -> K:
    """Build the object that a node describes.

    Args:
        node: Holds `_target_` and arguments; components among the arguments are nodes, too.
        name: Its place in the configuration, for messages, e.g. `attack.objective`.
        kind: What the object must be.
        given: Arguments that come from the program, not from the node.

    Raises:
        ConfigError: No class of this kind, an unknown or missing argument, a wrong type or value.
    """
    cls, arguments = _checked(node, name, kind, given)
    built = cls(**_built(cls, arguments, name), **given)
    named = isinstance(getattr(built, "name", None), str)
    require(named, f"{name}.{TARGET}", node[TARGET], "a class with a name, which tables show")
    return built


def bind(node: Mapping[str, Any], name: str, kind: type[K], given: Sequence[str]) -> partial[K]:
    """As `build`, for objects whose `given` arguments are not known yet: a factory that takes them.

    The node is checked at once.
    """
    cls, arguments = _checked(node, name, kind, given)
    return partial(cls, **_built(cls, arguments, name))


def complete(node: Any) -> Any:
    """Return a node, or containers with nodes, with the defaults of constructors filled in.

    Nodes that name no class are left as they are: building them says what is wrong.
    """
    if isinstance(node, list):
        return [complete(part) for part in node]
    if not isinstance(node, dict):
        return node
    filled = {key: complete(value) for key, value in node.items()}
    try:
        cls = find_class(filled[TARGET], Component, TARGET) if TARGET in filled else None
    except ConfigError:
        return filled
    return filled if cls is None else {**filled, **_defaults(cls, skip=filled)}


def describe(node: Mapping[str, Any], name: str, kind: type[Component], *given: str) -> Any:
    """Return everything that determines an object: what identities of stored things are made of.

    That is its class, the versions of it and its bases, all arguments with defaults, constants, the
    content of files, and that of the modules of the user's own where it and its bases come from.

    Args:
        node: As for `build`, and so are `name` and `kind`.
        name: See there.
        kind: See there.
        given: Names of the arguments that come from the program.
    """
    cls, arguments = _checked(complete(dict(node)), name, kind, given)
    described = {
        "class": cls.__name__,
        "version": [vars(c)["version"] for c in cls.__mro__ if "version" in vars(c)],
        "arguments": _described(cls, arguments, name),
    }
    if cls.constants:
        described["constants"] = {key: _constant(getattr(cls, key)) for key in cls.constants}
    modules = [c.__module__ for c in cls.__mro__] + sorted(cls.sources(arguments))
    if sources := {module: d for module in modules if (d := digest_of(module))}:
        described |= {"class": f"{cls.__module__}.{cls.__name__}", "sources": sources}
    return described


def written(node: Mapping[str, Any], skip: Sequence[str] = ()) -> str:
    """Return the settings of a completed node that are not its class's defaults, for tables, as in
    `sigma=0.5 base=noise(epsilon=2.0)`.

    Args:
        node: As for `build`.
        skip: Arguments that tables show elsewhere.
    """
    cls = find_class(node.get(TARGET), Component, TARGET)
    usual = {TARGET: node[TARGET], **_defaults(cls, skip=())}
    changed = {k: v for k, v in node.items() if k not in skip and (k not in usual or v != usual[k])}
    return " ".join(f"{key}={_text(value)}" for key, value in changed.items())


def _text(value: Any) -> str:
    if isinstance(value, Mapping) and TARGET in value:
        inside = written(value).replace(" ", ",")
        name = find_class(value[TARGET], Component, TARGET).name
        return f"{name}({inside})" if inside else name
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value)


def _constant(value: Any) -> Any:
    """Return what JSON can hold of a constant, and the content of a file."""
    if isinstance(value, Path):
        return {"sha256": file_digest(value, "constants", MAX_BYTES)}
    if isinstance(value, Mapping):
        return {str(key): _constant(part) for key, part in value.items()}
    return repr(value)


def find_class(target: Any, kind: type[K], name: str) -> type[K]:
    """Return the class that a dotted name stands for; nothing is called.

    Raises:
        ConfigError: It is not a concrete class of this kind, or its module was not consented to.
    """
    what = f"the dotted name of a {kind.__name__} class of robust_npe or of a --module"
    readable = isinstance(target, str) and "." in target and len(target) < MAX_TARGET
    require(readable, name, target, what)
    module, _, attribute = target.rpartition(".")
    import_consented(module, name, target)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{name}={target!r} cannot be imported: {error}.") from error
    fits = inspect.isclass(found) and issubclass(found, kind) and not inspect.isabstract(found)
    require(fits, name, target, what)
    return typing.cast(type[K], found)


def _checked(
    node: Mapping[str, Any], name: str, kind: type[K], given: Sequence[str] | Mapping[str, Any]
) -> tuple[type[K], dict[str, Any]]:
    """Return class and arguments, checked against each other and converted, nodes unbuilt."""
    require(isinstance(node, Mapping), name, node, f"a node with {TARGET} and settings")
    arguments = {key: value for key, value in node.items() if key != TARGET}
    cls = find_class(node.get(TARGET), kind, f"{name}.{TARGET}")
    parameters, hints = _parameters(cls), _hints(cls)
    allowed = [key for key in parameters if key not in given]
    for key in arguments:
        if key not in allowed:
            keys = f"its keys are {', '.join(allowed)}" if allowed else "it has no keys"
            raise ConfigError(f"{name} has no key {key!r}; {keys}.")
    for key in allowed:
        if key not in hints:
            raise ConfigError(f"{name}.{key} has no annotation in {cls.__name__}: add one.")
        if key not in arguments and parameters[key].default is inspect.Parameter.empty:
            raise ConfigError(f"{name}.{key} is not set; it must be {expected(hints[key])}.")
    return cls, {
        key: convert(value, hints[key], f"{name}.{key}", _check_node)
        for key, value in arguments.items()
    }


def _check_node(node: Any, kind: type, name: str) -> None:
    if not issubclass(kind, Component):
        no_component(node, kind, name)
    _checked(node, name, kind, ())


def _built(cls: type, arguments: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return converted arguments with objects in the place of nodes."""

    def built(value: Any, kind: type[Component], where: str) -> Any:
        return value if isinstance(value, Path) else build(value, where, kind)

    return _replaced(cls, arguments, name, built)


def _described(cls: type, arguments: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return converted arguments with descriptions in the place of nodes, and content of files."""

    def described(value: Any, kind: type[Component], where: str) -> Any:
        if isinstance(value, Path):
            return {"sha256": _digest(value, where)}
        return describe(value, where, kind)

    return _replaced(cls, arguments, name, described)


def _replaced(
    cls: type,
    arguments: Mapping[str, Any],
    name: str,
    leaf: Callable[[Any, type[Component], str], Any],
) -> dict[str, Any]:
    """Replace nodes and paths, at any depth, by what `leaf` makes of them."""

    def replaced(value: Any, kind: type[Component], where: str) -> Any:
        if isinstance(value, Path) or (isinstance(value, Mapping) and TARGET in value):
            return leaf(value, kind, where)
        if isinstance(value, list):
            return [replaced(part, kind, f"{where}[{i}]") for i, part in enumerate(value)]
        if isinstance(value, Mapping):
            return {key: replaced(part, kind, f"{where}.{key}") for key, part in value.items()}
        return value

    hints = _hints(cls)
    return {k: replaced(v, _component(hints[k]), f"{name}.{k}") for k, v in arguments.items()}


def _component(hint: Any) -> type[Component]:
    """Return the component class that an annotation names."""
    if inspect.isclass(hint):
        return hint if issubclass(hint, Component) else Component
    inner = [_component(option) for option in typing.get_args(hint)]
    return next((kind for kind in inner if kind is not Component), Component)


def _parameters(cls: type) -> Mapping[str, inspect.Parameter]:
    found = inspect.signature(cls).parameters
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {key: p for key, p in found.items() if p.kind not in several}


def _hints(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls.__init__)
    except NameError as error:  # e.g. imported for type checkers alone
        raise ConfigError(f"the annotations of {cls.__name__} cannot be read: {error}.") from error


def _defaults(cls: type, skip: Container[str]) -> dict[str, Any]:
    """Return the defaults of a constructor that a YAML file could hold."""
    return {
        key: _as_yaml(parameter.default)
        for key, parameter in _parameters(cls).items()
        if key not in skip and isinstance(parameter.default, YAML)
    }


def _as_yaml(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_as_yaml(part) for part in value]
    return {k: _as_yaml(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _digest(path: Path, what: str) -> str:
    """Return a hash of what is in a file, or of the names and contents of the files in a folder."""
    if not path.is_dir():
        return file_digest(path, what, MAX_BYTES)
    files = sorted(part for part in path.iterdir() if part.is_file())
    content = repr([(part.name, _digest(part, what)) for part in files])
    return hashlib.sha256(content.encode()).hexdigest()
