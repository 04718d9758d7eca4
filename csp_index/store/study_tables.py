"""Schemas and names of the tables of studies: what a network relies on, how networks differ, what readers say."""

from __future__ import annotations

import pyarrow as pa

STUDIES: dict[str, pa.Schema] = {}
