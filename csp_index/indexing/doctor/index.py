"""What an index holds, and what would be missing to extend it; nothing is written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from csp_index.images.decode import ImageFailure, ImageRef, read_images, same_file
from csp_index.indexing import commit
from csp_index.indexing.doctor.examination import Examination, expected, load, sampled, warnings_in
from csp_index.indexing.doctor.report import (
    DoctorReport,
    IndexReport,
    Listing,
    PassTrial,
    StoredEncoder,
    StoredLayer,
)
from csp_index.indexing.doctor.trial_pass import try_models
from csp_index.indexing.model_columns import columns_of
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.index_models import Models, by_network
from csp_index.models.networks import LoadedNetwork
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.connect import open_snapshot
from csp_index.store.image_metadata import image_records
from csp_index.store.originals import ImageRoots
from csp_index.store.tables import Store


def examine_index(uri: str | Path, request: Examination) -> IndexReport:
    """Return what an index holds, and try what would extend it on a seeded sample of its original images.

    Tried are the models of the request, or else those of the index, with which images could be added.
    """
    encoders, networks, models = request.encoders, request.networks, request.models
    store = open_snapshot(uri)
    report = IndexReport(Listing(store.uri, images=catalog.image_count(store)))
    with warnings_in(report):
        infos, layers = catalog.encoders(store), catalog.layers(store)
        report.encoders = [StoredEncoder(one.name, one.width, catalog.image_count(store, one.what)) for one in infos]
        report.layers = [_stored(store, info, report) for info in layers]
        report.failures = store.count(schema.FAILURES)
        report.bytes = _bytes(store)
        report.attempt(lambda: _count_columns(store, report.listing))
        arrays = all(info.is_imported for info in infos)
        refs = report.attempt(lambda: _originals(store, report, request.sample, arrays=arrays))
        loaded, studied = load(report, request)
        own = [] if encoders else _own_encoders(report, models, infos)  # new images, and new layers, need them
        if not (encoders or networks):
            loaded, studied = own, _own_networks(report, models, layers)
        columns = columns_of(loaded, studied, request.precision)
        report.attempt(lambda: commit.reconcile(store, columns, request.dtype))
        if encoders or networks:
            present = {info.what for info in catalog.columns(store)}
            report.notes += [f"{info.what} is in the index already" for info in columns if info.what in present]
        report.take(report.attempt(lambda: try_models(refs or [], loaded, studied, request.precision)) or PassTrial())
    if encoders or networks:
        result = expected(report.trial, report.listing.images)
        report.expected = None if result is None else replace(result, thumbnails=0.0)  # the index has them
    return report


def _stored(store: Store, info: LayerInfo, report: IndexReport) -> StoredLayer:
    images = catalog.image_count(store, info.what)
    layer = StoredLayer(str(info.key), info.network, info.neurons, info.pool, info.dtype, images)
    if images < report.listing.images:
        report.notes.append(
            f"layer {info.key} covers {images:,} of {report.listing.images:,} images: `csp-index index` completes it"
        )
    if not catalog.is_finished(store, info):
        report.notes.append(f"layer {info.key} has no statistics of its neurons yet: `csp-index index` makes them")
        return layer
    rows = store.read(schema.NEURONS, ["min", "max"], catalog.layer_filter(info))
    return layer.with_shares(rows["min"].to_numpy(), rows["max"].to_numpy())


def _count_columns(store: Store, listing: Listing) -> None:
    """Count the images that have a value in each column of metadata."""
    columns = Counter[str]()
    for _, record in image_records(store, listing.images):
        columns.update(name for name, value in record.items() if value is not None)
    listing.columns = dict(columns)


def _bytes(store: Store) -> int | None:
    """Return the bytes of all files of a local index."""
    if "://" in store.address:
        return None
    folders = os.walk(store.address)
    size = 0
    for path in (os.path.join(folder, name) for folder, _, names in folders for name in names):
        with suppress(FileNotFoundError):  # a writer has removed it since
            size += os.lstat(path).st_size
    return size


def _own_encoders(report: DoctorReport, models: Models, infos: Sequence[EncoderInfo]) -> list[LoadedEncoder]:
    """Load the encoders of the index, without which no image can be added; arrays have none."""
    encoders = []
    for info in infos:
        if info.is_imported:
            report.notes.append(f"encoder {info.name} came as arrays: it can embed neither images nor texts")
            continue
        one = report.attempt(partial(models.held_encoder, info), f"encoder {info.name} of the index")
        encoders += [] if one is None else [one]
    return encoders


def _own_networks(report: DoctorReport, models: Models, layers: Sequence[LayerInfo]) -> list[LoadedNetwork]:
    """Load the networks of the index; layers that came as arrays have none."""
    networks: list[LoadedNetwork] = []
    for group in by_network(layers):
        what = f"network {group[0].key.model} of the index"
        networks += report.attempt(partial(models.held_networks, group), what) or []
    for info in layers:
        if info.is_imported:
            report.notes.append(f"layer {info.key} came as arrays: images can be added to it only as arrays")
    return networks


def _originals(store: Store, report: IndexReport, sample: int, *, arrays: bool) -> list[ImageRef]:
    """Return those of a sample of the original images that can be read and are the same; the others are a problem."""
    if not report.listing.images:
        return []
    ids = sampled(range(report.listing.images), sample)
    rows = store.read(schema.IMAGES, ["image_id", "uri", "sha256"], f"image_id IN ({','.join(map(str, ids))})")
    uris, hashes = (rows.sort_by("image_id")[name].to_pylist() for name in ("uri", "sha256"))
    roots = ImageRoots(store)
    refused = [uri for uri in uris if not roots.allow(uri)]
    reasons = [str(roots.refusal(uri)) for uri in refused]
    allowed = [(uri, sha) for uri, sha in zip(uris, hashes, strict=True) if uri not in refused]
    readable = []
    for read, (uri, sha) in zip(read_images(uri for uri, _ in allowed), allowed, strict=True):
        one = same_file(read, sha)
        if isinstance(one, ImageFailure):
            reasons.append(f"{uri}: {one.reason}")
        else:
            readable.append(ImageRef(uri))
    if reasons:
        line = f"{len(reasons)} of {len(uris)} original images tried cannot be read, first {reasons[0]}"
        (report.notes if arrays else report.problems).append(line)
    return readable
