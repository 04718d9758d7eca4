"""What definitions of tables share: how a schema is written, and the fields that rows of results begin with."""

from __future__ import annotations

import pyarrow as pa

UTC = pa.timestamp("us", tz="UTC")

# What rows of results begin with; the settings hash is of all that they depend on.
RESULT = (
    ("run_id", pa.string()),
    ("settings_hash", pa.string()),
    ("model", pa.string()),
    ("layer", pa.string()),
    ("neuron", pa.int32()),
)


def schema_of(*fields: tuple[str, pa.DataType]) -> pa.Schema:
    """Return the schema of fields, each a name and a type."""
    return pa.schema([pa.field(name, kind) for name, kind in fields])
