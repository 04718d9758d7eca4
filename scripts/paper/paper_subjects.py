"""The layers that `reproduce_paper.py` studies: of networks, and of sparse autoencoders on them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from csp_index import NetworkSource
from csp_index.errors import ModelError
from csp_index.models.sparse_autoencoders import settled, split_spec
from csp_index.models.zoo import default_name

SUBJECTS = (
    "resnet50=torchvision:resnet50/IMAGENET1K_V2@layer4",
    "resnet101=torchvision:resnet101/IMAGENET1K_V2@layer4",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A layer under study, under the name it has in the table."""

    name: str
    spec: str
    layer: str

    @classmethod
    def parse(cls, text: str) -> Subject:
        """Read NAME=SPEC@LAYER."""
        found = re.fullmatch(r"([\w-]+)=(.+)@([^@]+)", text)
        if found is None:
            raise ModelError(f"subject {text!r} cannot be read: write NAME=SPEC@LAYER, as in {SUBJECTS[0]}")
        return cls(found[1], settled(found[2]), found[3])

    @property
    def sparse(self) -> bool:
        """Whether it is a layer of features of an autoencoder."""
        return self.layer in {source.added for source in split_spec(self.spec)[1]}

    @property
    def address(self) -> str:
        """The layer's address in the index."""
        return f"{default_name(self.spec)}/{self.layer}"


def network_sources(subjects: Sequence[Subject]) -> Iterator[NetworkSource]:
    """Yield the networks to run, each once, whatever hangs on its layers."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for subject in subjects:
        base, added = split_spec(subject.spec)
        saes, layers = found.setdefault(base, ({}, {}))
        saes.update(dict.fromkeys(map(str, added)))
        layers[subject.layer] = None
    for base, (saes, layers) in found.items():
        yield NetworkSource("+sae:".join([base, *saes]), tuple(layers))


def subjects_of(texts: Sequence[str] | None, autoencoders: Mapping[str, str | None]) -> tuple[Subject, ...]:
    """Return the layers under study; an autoencoder, given by its name, reads the layer of the first of them."""
    found = [Subject.parse(text) for text in texts or SUBJECTS]
    base = found[0]
    for name, file in autoencoders.items():
        if file is not None:
            kind = ":relu" if name == "vanilla" else ""
            read = f"{base.layer}={file}{kind}:name={name}"
            found.append(Subject.parse(f"sae-{name}={base.spec}+sae:{read}@{base.layer}.sae-{name}"))
    return tuple(found)
