"""What a peer's checkout must have: modules and the names in them. Imports only these; knows no peer."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

Names = Any  # a namespace of the names asked for


def names_of(who: str, checkout: Path, folders: Sequence[Path], needed: Mapping[str, Sequence[str]]) -> Names:
    """Return the names that the modules of a checkout have; end with one line that says what is missing, if any is.

    `folders` may hold the modules; the first that exists comes first among the places Python imports from.
    """
    sys.path[:0] = [str(folder.absolute()) for folder in folders if folder.is_dir()]
    os.environ.setdefault("MPLBACKEND", "Agg")  # no window, where their modules import matplotlib
    found: dict[str, Any] = {}
    for module, names in needed.items():
        try:
            imported = importlib.import_module(module)
        except ImportError as exc:
            missing = getattr(exc, "name", None) or str(exc)
            file = getattr(sys.modules.get(module), "__file__", None)
            if missing.partition(".")[0] in {name.partition(".")[0] for name in needed} and file is None:
                sys.exit(f"{who} at {checkout}: the checkout has no module {missing}, which is called here")
            sys.exit(
                f"{who} at {checkout}: importing {module} fails in {sys.executable} ({exc}): install what the checkout "
                "requires, or name an interpreter that has it by --python"
            )
        if not any(Path(imported.__file__ or "").is_relative_to(Path(folder).absolute()) for folder in folders):
            sys.exit(f"{who} at {checkout}: module {module} came from {imported.__file__}, not from the checkout")
        for name in names:
            if not hasattr(imported, name):
                sys.exit(f"{who} at {checkout}: {module} has no {name}, which is called here")
            found[name] = getattr(imported, name)
    return SimpleNamespace(**found)
