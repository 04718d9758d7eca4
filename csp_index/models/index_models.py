"""The models behind an index, loaded when needed and checked against those that built the index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from csp_index.errors import ModelError, SettingError
from csp_index.models import objects
from csp_index.models.encoders import LoadedEncoder, load_encoder
from csp_index.models.generators.variant_generators import VariantGenerator, load_variants
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.models.sparse_autoencoders import split_spec
from csp_index.models.specs import encoder_spec, network_spec
from csp_index.models.trust import check_stored, give
from csp_index.models.weights import OBJECT, lasting, objects_are_missing
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

_OBJECTS = f"{OBJECT}:"


@dataclass(frozen=True, slots=True)
class NetworkSource:
    """A network under study and its layers to index; the other fields as in `load_network`.

    `axis` has the neurons, counted from 1 in the output of one image, where the layers do not say it themselves.
    """

    spec: str
    layers: tuple[str, ...]
    pool: str | None = None
    weights: str | None = None
    name: str | None = None
    axis: tuple[int, ...] = ()
    allow_random: bool = False  # take a network that is no function of its image
    allow_missing: bool = False  # take random weights where the checkpoint lacks some


GivenModel = objects.Network | objects.Encoder  # a model that is an object of the caller


class Models:
    """Loads encoders and networks onto one device; an encoder, and a network for one layer, is loaded once."""

    def __init__(self, device: str, models: Mapping[str, GivenModel] | None = None, *, trust: bool = False) -> None:
        """Load nothing yet; `models` are the caller's objects by their names in the index.

        With `trust`, code that the index alone names is run; see `models.trust`.
        """
        self.device, self._trust = device, trust
        self._objects: dict[str, GivenModel] = {}
        self.clear()
        if models is not None and not isinstance(models, Mapping):
            raise SettingError(
                f"models is a {type(models).__name__}: expected a mapping of names to csp_index.Network or "
                "csp_index.Encoder"
            )
        for name, model in (models or {}).items():
            if not isinstance(model, objects.Network | objects.Encoder):
                raise SettingError(
                    f"models[{name!r}] is a {type(model).__name__}: expected csp_index.Network(module, ...) or "
                    "csp_index.Encoder(model, ...)"
                )
            named = model.named(name.removeprefix(_OBJECTS))
            if named.spec in self._objects and type(self._objects[named.spec]) is not type(named):
                raise _two_kinds(named.spec)
            self._remember(named)

    def _remember(self, model: GivenModel) -> None:
        self._objects[model.spec] = model

    def clear(self) -> None:
        """Forget every model, including the caller's objects."""
        self._objects.clear()
        self._encoders: dict[str, LoadedEncoder] = {}
        self._networks: dict[LayerKey, LoadedNetwork] = {}
        self._variants: dict[tuple[str, bool], VariantGenerator] = {}

    def encoder(self, spec: str | objects.Encoder) -> LoadedEncoder:
        """Return the encoder of a spec that the user gives, or of an object, which is remembered by its name."""
        if isinstance(spec, objects.Encoder):
            self._remember(spec)
            return spec.ready(self.device)
        if not isinstance(spec, str):
            raise SettingError(
                f"{_an(spec)} is no encoder: give a name, as of open_clip, or Encoder(model, preprocess, tokenizer)"
            )
        spec = lasting(encoder_spec(spec))
        give(spec)
        return self._encoder(spec)

    def _encoder(self, spec: str) -> LoadedEncoder:
        model = self._objects.get(spec)
        if model is not None:
            if not isinstance(model, objects.Encoder):
                raise ModelError(f"{spec} of the index is an encoder, the object given is {model!r}")
            return model.ready(self.device)
        if spec not in self._encoders:
            self._encoders[spec] = load_encoder(spec, device=self.device)
        return self._encoders[spec]

    def held_encoder(self, source: EncoderInfo) -> LoadedEncoder:
        """Return the encoder the index was built with. Raises ModelError if it is not the same any more."""
        if source.is_imported:
            raise ModelError(
                f"encoder {source.name} came as arrays and cannot read texts: give --text-embeddings and --texts"
            )
        check_stored(source.name, self._trust)
        loaded = self._encoder(source.name)
        for name in ("weights", "preprocessing", "source"):
            if loaded.identity.get(name) != source.identity.get(name):
                raise ModelError(
                    f"{source.name} is not the encoder the index was built with: its {name} is "
                    f"{loaded.identity.get(name)}, was {source.identity.get(name)}; "
                    "restore the old files, or index with the new ones under another name"
                )
        return loaded

    def variants(self, spec: str, prompted: bool) -> VariantGenerator:
        """Return the generator of variants a spec names; `prompted`: a prompt comes with each picture."""
        if (spec, prompted) not in self._variants:
            self._variants[spec, prompted] = load_variants(spec, prompted=prompted, device=self.device)
        return self._variants[spec, prompted]

    def added_network(self, store: Store, source: NetworkSource, given: objects.Network | None = None) -> LoadedNetwork:
        """Return the network of a source, or the caller's object `given` with the layers and options of the source.

        Raises StoreError where the index cannot be written, before code of the network runs; SettingError for options
        that an object cannot have, or if an encoder of the index has its name.
        """
        store.check_writable()
        if not isinstance(given, objects.Network):
            return self.network(source if given is None else given)
        if source.weights is not None or source.allow_missing:
            raise SettingError(
                f"weights and allow_missing are for a network named by a spec, and {given!r} has its weights already: "
                "leave them out"
            )
        chosen = given.choosing(
            source.layers, source.pool, source.name, axis=source.axis, allow_random=source.allow_random
        )
        _check_kinds(store, [], [chosen])
        return self.network(chosen)

    def network(self, source: NetworkSource | objects.Network) -> LoadedNetwork:
        """Return the network of a source, or of an object of the caller, which is remembered by its name."""
        if isinstance(source, objects.Network):
            self._remember(source)
            return source.hooked(self.device)
        if isinstance(source, NetworkSource):
            spec = network_spec(source.spec)
            give(split_spec(spec)[0])
            return load_network(
                lasting(spec),
                layers=source.layers,
                pool=source.pool,
                axis=source.axis,
                weights=source.weights,
                name=source.name,
                device=self.device,
                allow_random=source.allow_random,
                allow_missing=source.allow_missing,
            )
        raise SettingError(f"{_an(source)} is no network: give NetworkSource(spec, layers) or Network(module, layers)")

    def held_network(self, target: LayerInfo) -> LoadedNetwork:
        """Return the network of a layer of the index, ready for that layer. Raises ModelError if it has changed."""
        if target.is_imported:
            raise ModelError(f"layer {target.key} came as arrays: there is no network to run images through")
        if target.key in self._networks:
            return self._networks[target.key]
        loaded = self._load([target])
        _check_same(loaded, target)
        if target.network not in self._objects:  # an object may be trained further: it is checked each time
            self._networks[target.key] = loaded
        return loaded

    def held_networks(self, targets: Sequence[LayerInfo]) -> list[LoadedNetwork]:
        """Return the networks of layers of the index, one for all layers that share it. Raises the same ModelError."""
        networks = []
        for group in by_network(targets):
            loaded = self._load(group)
            for info in group:
                _check_same(loaded, info)
            networks.append(loaded)
        return networks

    def whole_network(self, target: LayerInfo) -> LoadedNetwork:
        """Return the network of a layer up to its logits, ready for that layer. Raises ModelError if it has changed.

        Of a checkpoint of transformers `held_network` returns the trunk alone, where the layer is in it.
        """
        if target.is_imported:
            raise ModelError(f"layer {target.key} came as arrays: there is no network to run images through")
        loaded = self._load([target], whole=True)
        _check_same(loaded, target)
        return loaded

    def _load(self, layers: Sequence[LayerInfo], *, whole: bool = False) -> LoadedNetwork:
        """Load the network that these layers share."""
        first = layers[0]
        names = [info.key.layer for info in layers]
        pools = {info.key.layer: info.pool for info in layers}
        allowed = any("random" in info.identity for info in layers)
        model = self._objects.get(first.network)
        if model is not None:
            if not isinstance(model, objects.Network):
                raise ModelError(f"{first.network} of the index is a network, the object given is {model!r}")
            return model.hooked(self.device, names, pool=pools, name=first.key.model, allow_random=allowed)
        check_stored(split_spec(first.network)[0], self._trust)
        return load_network(
            first.network,
            layers=names,
            pool=pools,
            weights=first.weights,
            name=first.key.model,
            device=self.device,
            allow_random=allowed,
            allow_missing=True,  # it was allowed, and the weights are compared
            whole=whole,
        )

    def all_held(self, store: Store) -> tuple[list[LoadedEncoder], list[LoadedNetwork]]:
        """Return every encoder and network of the index; layers of one network share it."""
        groups, infos = by_network(catalog.layers(store)), catalog.encoders(store)
        needed = {group[0].network: "network" for group in groups} | {info.name: "encoder" for info in infos}
        missing = {spec.removeprefix(_OBJECTS): kind for spec, kind in needed.items() if spec.startswith(_OBJECTS)}
        missing = {name: kind for name, kind in missing.items() if _OBJECTS + name not in self._objects}
        if missing:
            raise SettingError(objects_are_missing(missing))
        networks = [self._load(group) for group in groups]
        return [self.held_encoder(info) for info in infos], networks

    def to_run(
        self,
        store: Store | None,
        encoders: Sequence[str | objects.Encoder],
        networks: Sequence[NetworkSource | objects.Network],
    ) -> tuple[list[LoadedEncoder], list[LoadedNetwork]]:
        """Load the models in the arguments, or else those of the index, if there is one.

        Raises SettingError if an encoder and a network, of these and of the index, are objects of one name.
        """
        _check_kinds(store, encoders, networks)
        if not encoders and not networks:
            loaded, studied = self.all_held(store) if store is not None else ([], [])
        else:
            loaded = [self.encoder(spec) for spec in encoders]
            if not loaded and store is not None:
                loaded = [self.held_encoder(info) for info in catalog.encoders(store)]
            studied = [self.network(source) for source in networks]
        if not loaded:
            raise SettingError(
                "a new index needs an encoder: give one, for example open_clip:ViT-B-32/laion2b_s34b_b79k"
            )
        return loaded, studied


def all_named(source: object, encoders: Sequence[object], networks: Sequence[object]) -> bool:
    """Return whether images and models are given by their names, and none is an object.

    Raises SettingError where encoders or networks are no list.
    """
    for what, models in (("encoders", encoders), ("networks", networks)):
        if isinstance(models, str) or not isinstance(models, Sequence):
            raise SettingError(f"{what} is {_an(models)}: give a list, {what}=[...], also of one")
    return all(isinstance(one, str | Path | NetworkSource | None) for one in (source, *encoders, *networks))


def by_network(targets: Iterable[LayerInfo]) -> list[list[LayerInfo]]:
    """Return the layers grouped by network, without those that came as arrays."""
    groups: dict[tuple[str, str, str | None, str], list[LayerInfo]] = {}
    for info in targets:
        if not info.is_imported:
            groups.setdefault((info.key.model, info.network, info.weights, info.pool), []).append(info)
    return list(groups.values())


def _check_kinds(
    store: Store | None,
    encoders: Sequence[str | objects.Encoder],
    networks: Sequence[NetworkSource | objects.Network],
) -> None:
    """Refuse the same name for an encoder and a network that are objects."""
    encoder_specs = {one.spec for one in encoders if isinstance(one, objects.Encoder)}
    network_specs = {one.spec for one in networks if isinstance(one, objects.Network)}
    both = encoder_specs & network_specs
    if store is not None and (encoder_specs or network_specs):
        both |= encoder_specs & {info.network for info in catalog.layers(store)}
        both |= network_specs & {info.name for info in catalog.encoders(store)}
    if both:
        raise _two_kinds(min(both))


def _an(value: object) -> str:
    """Return the kind of an object with its article.

    >>> _an(1), _an({})
    ('an int', 'a dict')
    """
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _two_kinds(spec: str) -> SettingError:
    name = spec.removeprefix(_OBJECTS)
    return SettingError(f"object name {name!r} is used for an encoder and a network: give one of them another name=")


def _check_same(loaded: LoadedNetwork, target: LayerInfo) -> None:
    """Refuse a network that is not the one a layer of the index was made with."""
    result = loaded.identity_of(target.key.layer)
    object_too = ("source", "preprocessing") if target.network.startswith(_OBJECTS) else ()
    for name in ("weights", "sparse", *object_too):
        if result.get(name) != target.identity.get(name):
            raise ModelError(
                f"{target.network} is not the network the index was built with: its {name} is "
                f"{result.get(name)}, was {target.identity.get(name)}; restore the old files"
            )
