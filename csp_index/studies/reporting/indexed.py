"""What an index holds, as a report states it: images, encoders, layers, vocabularies, versions, with hashes.

The hash of images, of embeddings and of activations is one over the digests that stand with the marks of their shards:
it is the same as long as the rows are, and no table is read for it. Loads no torch.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any, Final

import pyarrow.compute as pc

from csp_index.printable import without_folders
from csp_index.store import catalog, schema
from csp_index.store.image_metadata import METADATA_COMMAND
from csp_index.store.runs import read_runs
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store
from csp_index.studies.auditing.stored_audits import Audit

_MOST: Final = 50  # vocabularies and runs that are listed
_MADE: Final = ("label", "effects", "audit", METADATA_COMMAND)  # commands whose runs are listed beside those of shards


def index_facts(store: Store, audit: Audit) -> dict[str, Any]:
    """Return what the index holds by now, and with which versions of libraries it was made, as plain values."""
    digests = _digests(store)
    labelled = labelled_counts(store)
    layers = [
        {
            "layer": str(info.key),
            "audited": info.key == audit.layer,
            "network": without_folders(info.network),
            "neurons": info.neurons,
            "pool": info.pool,
            "dtype": info.dtype,
            "images": catalog.image_count(store, info.what),
            "labelled": labelled.get(str(info.key), {}),
            "identity": without_folders(dict(info.identity)),
            "hash": digests.get(info.what),
        }
        for info in catalog.layers(store)
    ]
    encoders = [
        {
            "encoder": without_folders(info.name),
            "width": info.width,
            "images": catalog.image_count(store, info.what),
            "identity": without_folders(dict(info.identity)),
            "hash": digests.get(info.what),
        }
        for info in catalog.encoders(store)
    ]
    runs = _runs(store, audit)
    vocabularies = _vocabularies(store)
    return {
        "images": catalog.image_count(store),
        "failures": store.count(schema.FAILURES),
        "hash": digests.get(schema.IMAGES),
        "layers": layers,
        "encoders": encoders,
        "vocabularies": vocabularies[:_MOST],
        "more_vocabularies": max(0, len(vocabularies) - _MOST),
        "versions": _versions(runs),
        "runs": [{name: value for name, value in run.items() if name != "versions"} for run in runs[-_MOST:]],
        "more_runs": max(0, len(runs) - _MOST),
    }


def labelled_counts(store: Store) -> dict[str, dict[str, int]]:
    """Return for each layer that has labels the number of its labeled neurons by method."""
    by = ["model", "layer", "method"]

    def read() -> dict[str, dict[str, int]]:
        rows = store.read(schema.LABELS, [*by, "neuron", "state"], "rank <= 0")
        heads = rows.filter(pc.equal(rows["state"], "labelled")).group_by(by).aggregate([("neuron", "count_distinct")])
        counts: dict[str, dict[str, int]] = defaultdict(dict)
        for row in heads.sort_by([(name, "ascending") for name in by]).to_pylist():
            counts[f"{row['model']}/{row['layer']}"][row["method"]] = row["neuron_count_distinct"]
        return dict(counts)

    return store.memo(schema.LABELS, "labeled neurons", read)


def _digests(store: Store) -> dict[str, str]:
    """Return a hash over the digests of the shards of images, encoders and layers; none where one has no digest."""
    rows = store.read(schema.SHARDS, ["what", "shard", "digest"]).sort_by(
        [("what", "ascending"), ("shard", "ascending")]
    )
    parts: dict[str, list[str | None]] = defaultdict(list)
    for what, digest in zip(rows["what"].to_pylist(), rows["digest"].to_pylist(), strict=True):
        parts[what].append(digest)
    whole = {what: [digest for digest in own if digest] for what, own in parts.items()}
    return {
        what: hashlib.sha256(" ".join(own).encode()).hexdigest()
        for what, own in whole.items()
        if len(own) == len(parts[what])
    }


def _vocabularies(store: Store) -> list[dict[str, Any]]:
    names = ["vocabulary", "template_set"]
    rows = store.read(schema.VOCABULARIES, names).group_by(names).aggregate([([], "count_all")]).to_pylist()
    known = [
        {"name": without_folders(row[names[0]]), "templates": row[names[1]], "texts": row["count_all"]} for row in rows
    ]
    return sorted(known, key=lambda row: (str(row["name"]), str(row["templates"])))


def _runs(store: Store, audit: Audit) -> list[dict[str, Any]]:
    """Return the runs that made what the audit rests on, oldest first: shards, labels and effects, metadata, audit."""
    makers = set(store.read(schema.SHARDS, ["run_id"])["run_id"].to_pylist())
    columns = ["run_id", "command", "state", "started", "ended", "settings_hash", "versions"]
    rows = []
    for run in read_runs(store, columns):
        if run["run_id"] > audit.run_id or not (run["run_id"] in makers or run["command"] in _MADE):
            continue
        times = {name: run[name].isoformat() if run[name] else None for name in ("started", "ended")}
        versions = read_object(run["versions"], schema.RUNS, "versions")
        rows.append({name: run[name] for name in ("run_id", "command", "state", "settings_hash")} | times)
        rows[-1]["versions"] = {str(name): str(value) for name, value in versions.items()}
    return rows


def _versions(runs: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Return the versions of each package with which runs were made, in the order in which they came."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for run in runs:
        for package, version in run["versions"].items():
            found[package][version] = None
    return {package: list(own) for package, own in sorted(found.items())}
