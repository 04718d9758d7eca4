"""Checkpoints into the index: one pass over the images for all that are not there yet."""

from __future__ import annotations

from collections.abc import Sequence

from csp_index.indexing.indexer import add_images
from csp_index.models.index_models import NetworkSource
from csp_index.models.networks import LoadedNetwork
from csp_index.records import LayerKey, Progress
from csp_index.store import catalog
from csp_index.store.tables import Store
from csp_index.studies.evolution.checkpoints import Checkpoint


def checkpoint_sources(
    network: str,
    layers: tuple[str, ...],
    checkpoints: Sequence[Checkpoint],
    name: str,
    *,
    pool: str | None,
    axis: tuple[int, ...],
) -> list[NetworkSource]:
    """Return the networks that the checkpoints of a network are in the index."""
    return [
        NetworkSource(network, layers, pool, weights=one.file, name=one.network_name(name), axis=axis)
        for one in checkpoints
    ]


def index_checkpoints(store: Store, networks: Sequence[LoadedNetwork], progress: Progress) -> None:
    """Index the networks that lack some image or layer, all in one pass: an image is decoded and prepared once.

    Errors are those of `indexing.indexer.add_images`: of a checkpoint that is not the one the index was made with, too.
    """
    for network in networks[1:]:
        network.share_input(networks[0])
    lacking = [network for network in networks if not _is_indexed(store, network)]
    if lacking:
        add_images(store, None, [], lacking, progress=progress)


def _is_indexed(store: Store, network: LoadedNetwork) -> bool:
    """Return whether the index has all layers of a network, with these weights, over all of its images."""
    known = {info.key: info for info in catalog.layers(store)}
    for layer in network.layers:
        info = known.get(LayerKey(network.name, layer))
        if info is None or info.identity.get("weights") != network.identity_of(layer).get("weights"):
            return False
        whole = catalog.image_count(store, info.what) == catalog.image_count(store)
        if not whole or not catalog.is_finished(store, info):
            return False
    return True
