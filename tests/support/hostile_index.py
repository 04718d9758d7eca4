"""An index as a stranger may have made it: columns overwritten with what no csp_index writes."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from csp_index.store.tables import Store


def overwrite(store: Store, table: str, /, **columns: object) -> None:
    """Give every row of a table the same value in some columns, or the values of a list."""
    rows = store.read(table)
    for name, value in columns.items():
        values: Sequence[object] = value if isinstance(value, list) else [value] * len(rows)
        kind = rows.schema.field(name).type
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(values, kind))
    with store.write_lock():
        store.delete(table, f"{rows.column_names[0]} IS NOT NULL")
        store.append(table, rows)
