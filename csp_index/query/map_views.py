"""What SQL sees of activation maps: a row per neuron and image, of each layer that has maps and of all of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pyarrow as pa

from csp_index.store import catalog, column_tables
from csp_index.store.catalog import sql_text
from csp_index.store.tables import Store

MAPS: Final = "maps"
_COLUMNS: Final = pa.schema(
    [
        *(("address", pa.string()), ("model", pa.string()), ("layer", pa.string()), ("neuron", pa.int32())),
        *(("rank", pa.int64()), ("image_id", pa.int64()), ("scale", pa.float32())),
        *(("height", pa.int16()), ("width", pa.int16()), ("side", pa.float32())),
    ]
)


def map_views(store: Store, names: set[str]) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """Return what opens the views of maps, those of single layers and then `maps` over them; and their definitions.

    `names` are the tables of the index. The view of a layer is named after its table; what opens `maps` returns None.
    """
    views: dict[str, Callable[[], Any]] = {}
    definitions = {}
    for info in catalog.layers(store):
        table = column_tables.maps_table(str(info.key))
        if table in names:
            views[table] = partial(store.dataset, table)
            definitions[table] = _definition(info.key.model, info.key.layer)
    if not views:
        return {MAPS: _COLUMNS.empty_table}, {}
    definitions[MAPS] = " UNION ALL ".join(f'SELECT * FROM "{table}"' for table in views)
    return {**views, MAPS: lambda: None}, definitions


def _definition(model: str, layer: str) -> str:
    owner = [sql_text(part).replace("{", "{{").replace("}", "}}") for part in (f"{model}/{layer}/", model, layer)]
    return f"""SELECT {owner[0]} || neuron AS address, {owner[1]} AS model, {owner[2]} AS layer, neuron,
        unnest(range(len(image_ids))) AS rank, unnest(image_ids) AS image_id, unnest(scales) AS scale, height, width,
        side FROM {{}}"""
