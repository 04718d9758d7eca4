"""An index as two Parquet tables that `datasets.load_dataset(DIR, "images")` and `(DIR, "neurons")` read.

The folder is laid out as the Hub expects it: a README that names both, and in each file's schema what its columns are,
so that thumbnails come back as pictures.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from csp_index.query.exports.rows import Exported, Subject, literal, names_of, pictures, write_parquet
from csp_index.store.values.arrays import embedding_rows

_README: Final = """---
configs:
{}
---

Images, and what the neurons of a network mean, written by csp_index.
"""
_COLUMNS = ["image_id", "uri", "width", "height", "split", "thumbnail", "metadata"]


def write_datasets(subject: Subject, folder: Path, place: str) -> Exported:
    """Write the images (with the embeddings of the first encoder) and the neurons, which will lie at `place`."""
    images = write_parquet(_image_tables(subject), folder / "images.parquet")
    neurons = write_parquet(
        (_described(subject.neurons(layer)) for layer in subject.layers), folder / "neurons.parquet"
    )
    written = [name for name, rows in (("images", images), ("neurons", neurons)) if rows]
    configs = "\n".join(f"- config_name: {name}\n  data_files: {name}.parquet" for name in written)
    (folder / "README.md").write_text(_README.format(configs), encoding="utf-8")
    opening = f"datasets.load_dataset({literal(place)}, {literal((written or ['images'])[-1])})"
    return Exported("datasets", images, neurons, opening)


def _image_tables(subject: Subject) -> Iterator[pa.Table]:
    encoder = subject.encoder
    for batch in subject.images(_COLUMNS):
        table = pa.Table.from_batches([batch]).drop_columns("thumbnail")
        table = table.append_column("image", pictures(batch["thumbnail"], names_of(batch["uri"])))
        if encoder is not None:
            vectors = embedding_rows(subject.store, encoder, batch["image_id"].to_numpy())
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), encoder.width)
            table = table.append_column("embedding", column.cast(pa.list_(pa.float32())))
        yield _described(table)


def _described(table: pa.Table) -> pa.Table:
    """Return a table whose schema says for `datasets` what each column is."""
    features = {field.name: _feature(field.type) for field in table.schema}
    said = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": said})


def _feature(kind: pa.DataType) -> dict[str, Any]:
    if pa.types.is_struct(kind):
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"_type": "List", "feature": _feature(kind.value_type)}
    return {"_type": "Value", "dtype": {"double": "float64", "float": "float32"}.get(str(kind), str(kind))}
