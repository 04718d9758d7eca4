"""Code from outside the package: plugins and ``python:`` factories.

A package that offers an entry point in the group ``csp_index.plugins`` is imported once before the first model is
loaded; it can register an architecture with timm or open_clip. An entry point in the group ``csp_index.methods`` is a
scoring method: its name is the method's, its value a ``ScoringMethod`` or a function of evidence and options.
"""

from __future__ import annotations

import importlib
import os
import sys
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from csp_index.errors import CspIndexError, PluginError, one_line
from csp_index.files import code_folders
from csp_index.models.trust import SHIPPED

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

GROUP = "csp_index.plugins"
METHOD_GROUP = "csp_index.methods"


@cache
def load_plugins() -> tuple[str, ...]:
    """Import every plugin, once; return their names."""
    plugins = sorted(_offers(GROUP), key=lambda plugin: plugin.name)
    for plugin in plugins:
        _load(plugin, "plugin")
    return tuple(plugin.name for plugin in plugins)


@cache
def offered(group: str) -> tuple[str, ...]:
    """Return the names that installed packages offer in a group, sorted; loads none of them."""
    return tuple(sorted({point.name for point in _offers(group)}))


def load_methods() -> dict[str, tuple[object, str]]:
    """Return the scoring methods of installed packages by name, each with its origin."""
    methods: dict[str, tuple[object, str]] = {}
    for point in sorted(_offers(METHOD_GROUP), key=lambda point: (point.name, point.value)):
        origin = f"the package {point.dist.name if point.dist else '?'} ({point.value})"
        if point.name in methods:
            raise PluginError(f"the method {point.name!r} is offered twice, by {methods[point.name][1]} and {origin}")
        methods[point.name] = (_load(point, "method"), origin)
    return methods


def _offers(group: str) -> EntryPoints:
    from importlib.metadata import entry_points  # here, for it brings the mail parser along: a third of `--help`

    return entry_points(group=group)


def _load(point: EntryPoint, what: str) -> object:
    try:
        return point.load()
    except Exception as exc:  # it is somebody else's code
        raise PluginError(f"the {what} {point.name!r} ({point.value}) cannot be imported: {one_line(exc)}") from exc


def call_factory(address: str, error: type[CspIndexError]) -> object:
    """Return what the function at ``package.module:factory`` returns; modules in the current folder are found too.

    The caller has checked that the user ordered it (`trust.check_stored`). For a factory of this package the current
    folder is not searched: every index may name it.
    """
    name, _, attribute = address.partition(":")
    if not name or not attribute:
        raise error(f"{address!r} does not name a factory: write python:package.module:function")
    module = _import(name, error, with_folder=f"python:{address}" not in SHIPPED)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        offered = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise error(f"module {name!r} has no function {attribute!r} (has: {', '.join(offered[:10]) or 'none'})")
    try:
        return factory()
    except CspIndexError:
        raise
    except Exception as exc:  # it is the user's code
        raise error(f"the factory {address} failed: {type(exc).__name__}: {one_line(exc)}") from exc


def _import(name: str, error: type[CspIndexError], *, with_folder: bool) -> ModuleType:
    here = os.getcwd()
    if with_folder:
        code_folders.add(here)
    added = with_folder and here not in sys.path and "" not in sys.path
    if added:  # a command's search path lacks the current folder, where a user's own module usually is
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except Exception as exc:  # importing runs the user's code
        raise error(f"the module {name!r} cannot be imported: {type(exc).__name__}: {one_line(exc)}") from exc
    finally:
        if added:
            sys.path.remove(here)
