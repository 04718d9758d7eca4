"""Which views a SQL statement needs: those that it names, found by DuckDB's own parser, and those that these are over.

An index has some forty views, and DuckDB takes milliseconds for each that it is handed; a statement names one or two.
Whoever is in doubt here takes all of them, so a statement never sees fewer views than it would otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import duckdb

_LONGEST = 20_000  # characters of a statement that is looked through: its tree takes 100 times as many bytes
_READ_NO_VIEW = frozenset({"activations", "generate_series", "range", "unnest"})  # table functions


def needed_views(
    connection: duckdb.DuckDBPyConnection, statement: str, views: Collection[str], definitions: Mapping[str, str]
) -> set[str]:
    """Return the views that a statement names, in any case and quotes, and those that their definitions name.

    All `views` are returned for a statement that may see what views there are (SHOW, DESCRIBE, information_schema,
    table functions), for one that names something else, and for one that the parser does not lay out.
    """
    tree = _laid_out(connection, statement)
    if tree is None or not tree.is_plain:
        return set(views)
    by_name = {view.casefold(): view for view in views}
    if tree.names - by_name.keys() - tree.own:
        return set(views)
    return _with_those_below({by_name[name] for name in tree.names & by_name.keys()}, views, definitions)


def _with_those_below(named: Iterable[str], views: Collection[str], definitions: Mapping[str, str]) -> set[str]:
    """Return the views with all whose names stand in their definitions, be it for another reason."""
    needed: set[str] = set()
    pending = set(named)
    while pending:
        needed |= pending
        texts = [definitions.get(view) or "" for view in pending]
        pending = {view for view in views if any(view in text for text in texts)} - needed
    return needed


def _laid_out(connection: duckdb.DuckDBPyConnection, statement: str) -> _Tree | None:
    """Return what the tree of a statement names; None where the parser has no tree for it, or one too large to read."""
    if len(statement) > _LONGEST:
        return None
    tree = _Tree()
    try:
        [(text,)] = connection.execute("SELECT json_serialize_sql($1)", [statement]).fetchall()
        json.loads(text, object_hook=tree.look_at)
    except (duckdb.Error, RecursionError, ValueError, KeyError):  # running the statement tells whether it is wrong
        return None
    return tree


class _Tree:
    """What the nodes of a statement's tree name, gathered while JSON is read from the innermost ones outwards."""

    def __init__(self) -> None:
        self.names: set[str] = set()  # of tables and views, casefolded
        self.own: set[str] = set()  # of what may be the statement's own, by WITH
        self.is_plain = True  # sees no other tables and views than it names

    def look_at(self, node: dict[str, Any]) -> str | None:
        """Take what a node names, and keep of it what the node around it needs: the name of a function."""
        kind = node.get("type")
        if kind == "BASE_TABLE":
            self.names.add(node["table_name"].casefold())
            self.is_plain &= not (node["schema_name"] or node["catalog_name"])
        elif kind == "FUNCTION":
            name: str = node["function_name"].casefold()
            self.is_plain &= not name.startswith("pg_")  # some of them are SELECTs over the catalog
            return name
        elif kind == "TABLE_FUNCTION":
            self.is_plain &= node["function"] in _READ_NO_VIEW
        elif kind == "SHOW_REF" or node.get("error"):  # an error: there is no tree, as for PIVOT
            self.is_plain = False
        elif node.keys() == {"key", "value"}:
            self.own.add(str(node["key"]).casefold())
        return None
