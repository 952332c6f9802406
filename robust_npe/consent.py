"""Which code beside this package a configuration may name: what the user consented to.

Consent is given on the command line (`--module file.py` or `--module package.module`), by the
environment variable ROBUST_NPE_MODULES (several are separated as in PATH; processes that a command
starts inherit it), or by installing a package that declares an entry point in the group
`robust_npe.plugins`. No stored file can give it.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from robust_npe.checks import ConfigError, require

__all__ = ["VARIABLE", "allow", "digest_of", "import_consented", "modules_behind", "resolve"]

VARIABLE = "ROBUST_NPE_MODULES"
GROUP = "robust_npe.plugins"
OWN = "robust_npe"


def allow(module: str) -> None:
    """Consent to a module, for this process and those that it starts, and import it.

    Args:
        module: A Python file, or the dotted name of an importable module.

    Raises:
        ConfigError: It cannot be imported.
    """
    given = str(Path(module).resolve()) if _is_file(module) else module
    _load(given)
    listed = _listed()
    if given not in listed:
        os.environ[VARIABLE] = os.pathsep.join([*listed, given])


def import_consented(module: str, name: str, target: str) -> None:
    """Make sure that a module may be named by a configuration, and that it can be imported.

    Args:
        module: Dotted name of the module.
        name: The setting that names it, for the message.
        target: The value of the setting.

    Raises:
        ConfigError: There is no consent for it.
    """
    if any(_inside(module, root) for root in (OWN, *_roots())):
        return
    root = module.partition(".")[0]
    raise ConfigError(
        f"{name}={target!r} is not valid: it is not in robust_npe. If it is code of your own that "
        f"you trust, hand it over: --module {root}.py (or {VARIABLE}={root}.py)."
    )


def resolve(reference: object, name: str) -> Any:
    """Return what `module:name` stands for in a module of the user's own.

    Args:
        reference: As the user writes it, e.g. `sim:simulate`.
        name: The setting that holds it, for messages.

    Raises:
        ConfigError: It is no such reference, there is no consent for the module, or nothing of this
            name in it.
    """
    module, _, attribute = str(reference).partition(":")
    expected = "module:name, e.g. sim:simulate for `simulate` in the file of --module sim.py"
    written = attribute.isidentifier() and all(part.isidentifier() for part in module.split("."))
    require(written and not _inside(module, OWN), name, reference, expected)
    import_consented(module, name, str(reference))
    found = getattr(importlib.import_module(module), attribute, None)
    require(found is not None, name, reference, f"the name of something in the module {module}")
    return found


def modules_behind(module: str) -> set[str]:
    """Return the modules of the user's own that a module of these is made of: itself, and those
    whose modules, functions or classes it holds, at any depth."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found or name not in sys.modules or digest_of(name) is None:
            continue
        found.add(name)
        for value in vars(sys.modules[name]).values():
            is_module = isinstance(value, ModuleType)
            waiting.append(str(getattr(value, "__name__" if is_module else "__module__", "")))
    return found


def digest_of(module: str) -> str | None:
    """Return a hash of the code of a module of the user's own, None for any other module.

    It is that of the code which runs in this process, whatever becomes of the file meanwhile.
    """
    return _digest(module) if any(_inside(module, root) for root in _roots()) else None


@cache
def _digest(module: str) -> str:
    file = getattr(sys.modules.get(module), "__file__", None)
    return hashlib.sha256(Path(file).read_bytes() if file else b"").hexdigest()


def _roots() -> list[str]:
    """Names of the modules that were consented to, imported where they were handed over."""
    return [*(_load(given).__name__ for given in _listed()), *_plugins()]


def _inside(module: str, root: str) -> bool:
    return module == root or module.startswith(f"{root}.")


def _listed() -> list[str]:
    given = [part for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]
    return [str(Path(part).resolve()) if _is_file(part) else part for part in given]


def _is_file(module: str) -> bool:
    return module.endswith(".py") or os.sep in module


@cache
def _plugins() -> tuple[str, ...]:
    return tuple(point.module for point in entry_points(group=GROUP))


@cache
def _load(given: str) -> ModuleType:
    """Import a module that was consented to; a file is known by its stem from then on."""
    try:
        return _load_file(Path(given)) if _is_file(given) else importlib.import_module(given)
    except ConfigError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ConfigError(f"--module {given} cannot be imported: {kind}: {error}.") from error


def _load_file(path: Path) -> ModuleType:
    name = path.stem
    if not path.is_file():
        raise ConfigError(f"--module {path}: there is no such file.")
    if not name.isidentifier():
        raise ConfigError(f"--module {path}: {name!r} is not a name for a module; rename the file.")
    known = sys.modules.get(name)
    other = known.__spec__ if known is not None else importlib.util.find_spec(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if other is not None and Path(str(other.origin)) != path:
        raise ConfigError(f"--module {path}: a module {name!r} exists already; rename the file.")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
        _digest(name)  # of what was just run
    except BaseException:
        del sys.modules[name]
        raise
    return module
