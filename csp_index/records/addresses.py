"""The addresses of layers and neurons, the same everywhere: command line, Python, URL, SQL."""

from __future__ import annotations

from dataclasses import dataclass

from csp_index.errors import AddressError


@dataclass(frozen=True, slots=True, order=True)
class LayerKey:
    """A layer of a network under study, written `model/layer`."""

    model: str
    layer: str

    @classmethod
    def parse(cls, text: str) -> LayerKey:
        """Return the key of `model/layer`.

        >>> LayerKey.parse("resnet50/layer4")
        LayerKey(model='resnet50', layer='layer4')
        """
        model, slash, layer = text.partition("/")
        if not (model and slash and layer) or "/" in layer or text != text.strip():
            raise AddressError(f"layer {text!r} is not an address: write MODEL/LAYER, for example resnet50/layer4")
        return cls(model, layer)

    def __str__(self) -> str:
        return f"{self.model}/{self.layer}"


@dataclass(frozen=True, slots=True, order=True)
class NeuronKey:
    """A neuron's address, written `model/layer/index` everywhere: command line, Python, URL, SQL."""

    model: str
    layer: str
    neuron: int

    @classmethod
    def parse(cls, text: str) -> NeuronKey:
        """Return the key of `model/layer/index`.

        >>> NeuronKey.parse("resnet50/layer4/77")
        NeuronKey(model='resnet50', layer='layer4', neuron=77)
        """
        path, _, index = text.rpartition("/")
        if path.count("/") != 1 or not index.isascii() or not index.isdigit() or len(index) > 18:
            raise AddressError(
                f"neuron {text!r} is not an address: write MODEL/LAYER/INDEX, for example resnet50/layer4/77"
            )
        key = LayerKey.parse(path)
        return cls(key.model, key.layer, int(index))

    @property
    def layer_key(self) -> LayerKey:
        """The layer the neuron belongs to."""
        return LayerKey(self.model, self.layer)

    def __str__(self) -> str:
        return f"{self.model}/{self.layer}/{self.neuron}"
