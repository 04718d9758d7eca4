"""Pictures in the buckets of the tests' object store."""

from __future__ import annotations

import io
from typing import Any

import obstore
from buckets import Bucket
from PIL import Image

from csp_index.files.object_stores import connect


def put(bucket: Bucket, files: dict[str, bytes]) -> None:
    """Write objects by name."""
    client = connect(f"s3://{bucket.name}", 1)
    for name, data in files.items():
        obstore.put(client, name, data)


def picture(color: str = "red", **options: Any) -> bytes:
    """Return a small JPEG."""
    buffer = io.BytesIO()
    Image.new("RGB", (12, 8), color).save(buffer, "JPEG", **options)
    return buffer.getvalue()
