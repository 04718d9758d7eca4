"""What tests and scripts import inside functions, or replace, exists: what runs rarely keeps up with the code."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LATE = re.compile(r"setattr\(|^ +from csp_index", re.MULTILINE)  # imports of a whole module are seen when it is


def resolved(dotted: str) -> object:
    """Return the module, class or value at a dotted name. AttributeError or ImportError if there is none."""
    parts = dotted.split(".")
    found: object = importlib.import_module(parts[0])
    for end, part in enumerate(parts[1:], 2):
        if not hasattr(found, part):
            importlib.import_module(".".join(parts[:end]))
        found = getattr(found, part)
    return found


def names_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield lines and dotted names in csp_index that a module imports or replaces by `setattr`."""
    known = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "csp_index":
            for one in node.names:
                known[one.asname or one.name] = f"{node.module}.{one.name}"
                yield node.lineno, f"{node.module}.{one.name}"
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="setattr"), args=[ast.Constant(value=str(name)), _]):
                if name.startswith("csp_index."):
                    yield node.lineno, name
            case ast.Call(
                func=ast.Attribute(attr="setattr"), args=[ast.Name(id=owner), ast.Constant(value=str(name)), _]
            ) if owner in known:
                yield node.lineno, f"{known[owner]}.{name}"


def missing(path: Path) -> list[str]:
    found, text = [], path.read_text()
    for line, name in names_of(ast.parse(text)) if LATE.search(text) else ():
        try:
            resolved(name)
        except (ImportError, AttributeError):
            found.append(f"{path.name}:{line}: {name}")
    return found


@pytest.mark.parametrize("folder", ["tests", "scripts"])
def test_what_is_imported_late_or_replaced_exists(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert len(paths) > 50 and [line for path in paths for line in missing(path)] == []


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("from csp_index.store import schema\npatch.setattr(schema, 'SPARSE', 2)", ["csp_index.store.schema.SPARSE"]),
        ("def test():\n    from csp_index.store.schema import GONE", ["csp_index.store.schema.GONE"]),
        ("patch.setattr('csp_index.gone.X', 1)", ["csp_index.gone.X"]),
        ("from csp_index.store import schema\npatch.setattr(schema, 'RUNS', 2); patch.setattr(other, 'x', 1)", []),
    ],
)
def test_a_name_that_is_gone_is_found(body, told, tmp_path):
    (tmp_path / "test_x.py").write_text(body)
    assert [line.split(": ")[1] for line in missing(tmp_path / "test_x.py")] == told
