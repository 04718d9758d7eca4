"""The protocol of the CSP paper (arXiv 2604.22477), stage by stage, with the published figures beside ours:

    python scripts/paper/reproduce_paper.py OUT --images IMAGENET_VAL --controls COCO \\
        --sae-topk topk.safetensors:topk=32 --sae-vanilla vanilla.safetensors

index     embeddings by the encoder, activations of each subject: a layer of a network, or of a sparse autoencoder on it
label     the 200 neurons with the highest mean over their 100 highest activations, by each method
generate  20 pictures of each label that was given
score     DMA, CoSy AUC and MAD against 500 control images, and the simulation correlation over all indexed images
table     table.md, table.csv and table.json in OUT

Run again, it does what is missing: the index goes on at its last shard, labels are kept in it, pictures and scores lie
in OUT under a hash of all they depend on. What the paper's text leaves open follows the paper's code
(github.com/oussamabouanani/neurolens); the README says what could not be settled.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np
import paper_table
import torch
from paper_subjects import SUBJECTS, Subject, network_sources, subjects_of

from csp_index import Index, open_index
from csp_index.errors import CspIndexError, EvaluationError, GeneratorError
from csp_index.evaluation.label_images import (
    GenerationSettings,
    ImageGenerator,
    control_activations,
    generated_activations,
    load_generator,
)
from csp_index.evaluation.metrics.detection import cosy_auc, cosy_mad, dma, pearson
from csp_index.evaluation.options import MethodChoice
from csp_index.images.decode import uris_of
from csp_index.images.sources import open_source
from csp_index.models.encoders import LoadedEncoder, load_encoder
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.store.values import streams

STAGES = ("index", "label", "generate", "score", "table")
METRICS = ("DMA", "AUC", "MAD", "simulation")
#: The methods the paper compares, as its code has them, each scored on the first 30 of its example images.
PAPERS = ("semanticlens", "clip-dissect-mean", "csp:gamma=1", "csp:gamma=0.5")
#: Beside them: the same rival as published, strong baselines without contrast, this package's own, and the floor.
OURS = ("clip-dissect", "pmi", "mean-centred", "contrastive-pmi", "random-label")


@dataclass(frozen=True, slots=True)
class Neuron:
    """A chosen neuron and its maximal activation on the indexed images."""

    number: int
    maximum: float


class Reproduction:
    """One run of the protocol in a folder."""

    def __init__(self, options: argparse.Namespace, tell: Callable[[str], None]) -> None:
        """Take the protocol's settings; nothing is read or loaded yet."""
        self.options, self.tell = options, tell
        self.out: Path = options.out
        self.subjects = subjects_of(options.subjects, {"topk": options.sae_topk, "vanilla": options.sae_vanilla})
        self.methods = tuple(MethodChoice.parse(text) for text in options.methods or (*PAPERS, *OURS))
        self.index: Index = open_index(self.out / "index.db", device=options.device)
        self._chosen: dict[str, list[Neuron]] = {}
        self._labels: dict[tuple[str, str], list[str | None]] = {}

    # index

    def make_index(self) -> None:
        """Index the images, unless a run with the same settings has finished doing so."""
        sources = list(network_sources(self.subjects))
        asked = digest([str(Path(self.options.images).resolve()), self.options.encoder, [str(s) for s in sources]])
        mark = self.out / "indexed.json"
        if mark.exists() and asked in json.loads(mark.read_text()):
            return
        summary = self.index.add_images(self.options.images, encoders=[self.options.encoder], networks=sources)
        self.tell(f"index: {summary.images:,} images, {summary.added:,} of them new, {summary.failed:,} unreadable")
        write(mark, json.dumps([*(json.loads(mark.read_text()) if mark.exists() else []), asked]))

    # label

    def neurons(self, subject: Subject) -> list[Neuron]:
        """Return the neurons to evaluate: the highest mean of the top activations first, as in the paper's code.

        Neurons that fire on fewer images than that mean takes are left out, and features of an autoencoder that fire
        on too many.
        """
        if subject.name in self._chosen:
            return self._chosen[subject.name]
        o = self.options
        key = LayerKey.parse(subject.address)
        most = f"AND firing_rate < {o.overly_active}" if subject.sparse else ""
        rows = self.index.sql(
            f"SELECT neuron, max FROM neurons WHERE model = '{key.model}' AND layer = '{key.layer}' "
            f"AND round(firing_rate * images) >= {o.top_mean} {most} "
            f"ORDER BY list_avg(top_activations[1:{o.top_mean}]) DESC, neuron LIMIT {o.neurons}"
        ).to_arrow()
        found = [Neuron(int(row["neuron"]), float(row["max"])) for row in rows.to_pylist()]
        if not found:
            raise EvaluationError(f"no neuron of {subject.address} fires on {o.top_mean} images: index more images")
        if len(found) < o.neurons:
            self.tell(f"label: {subject.name} has {len(found)} neurons that fire often enough, not {o.neurons}")
        self._chosen[subject.name] = found
        return found

    def labels(self, subject: Subject, choice: MethodChoice) -> list[str | None]:
        """Return the label of each chosen neuron; kept in the index, and read from there the next time."""
        key = (subject.name, choice.text)
        if key not in self._labels:
            numbers = [f"{subject.address}/{neuron.number}" for neuron in self.neurons(subject)]
            given = {"examples": self.options.examples} if choice.text in PAPERS else {}
            found = self.index.label(
                numbers,
                choice.method,
                vocabulary=self.options.vocabulary,
                templates=self.options.templates,
                renormalise_text=False,
                **given,
                **choice.options,
            )
            texts = {label.neuron.neuron: label.text for label in found}
            self._labels[key] = [texts[neuron.number] for neuron in self.neurons(subject)]
        return self._labels[key]

    def label(self) -> None:
        """Label the neurons of every subject by every method."""
        for subject, choice in self.cells():
            known = sum(text is not None for text in self.labels(subject, choice))
            self.tell(f"label: {subject.name} by {choice.text}, {known} labels")

    def cells(self) -> Iterator[tuple[Subject, MethodChoice]]:
        """Yield every subject with every method."""
        return ((subject, choice) for subject in self.subjects for choice in self.methods)

    # generate

    @cached_property
    def generator(self) -> ImageGenerator:
        """The generator, with the folder that keeps its pictures in front of it."""
        return load_generator(self.options.generator, device=self.options.device or "auto", cache=self.out / "pictures")

    def generate(self) -> None:
        """Draw every label that some cell of the table misses its score for."""
        missing = [cell for cell in self.cells() if not self.place(*cell).exists()]
        texts = sorted({text for cell in missing for text in self.labels(*cell) if text is not None})
        if not texts:
            return
        settings, refused = self.settings(), 0
        for done, text in enumerate(texts, start=1):
            try:
                self.generator.generate(settings.prompt(text), settings.count, settings.seed)
            except GeneratorError:  # told again, label by label, with the scores
                refused += 1
            if done % 50 == 0 or done == len(texts):
                self.tell(f"generate: {done} of {len(texts)} labels, {refused} of them cannot be drawn")

    def settings(self) -> GenerationSettings:
        """Return how pictures are made."""
        return GenerationSettings(self.options.pictures, self.options.seed, self.options.prompt)

    # score

    def place(self, subject: Subject, choice: MethodChoice) -> Path:
        """Return the file of a cell's scores, named by a hash of all they depend on."""
        o, store = self.options, self.index.store
        layer = catalog.layer(store, LayerKey.parse(subject.address))
        neurons = [[neuron.number, neuron.maximum] for neuron in self.neurons(subject)]
        studied = [dict(layer.identity), layer.pool, catalog.image_count(store), neurons, self.labels(subject, choice)]
        drawn = [dict(self.generator.identity), o.pictures, o.seed, o.prompt, self.controls, o.control_images]
        key = digest([studied, drawn, dict(catalog.encoder(store).identity)])
        return self.out / "scores" / f"{subject.name}-{re.sub(r'[^a-z0-9.]+', '-', choice.text)}-{key[:16]}.json"

    @cached_property
    def controls(self) -> str:
        """A hash of the names of the control images."""
        return digest(list(uris_of(open_source(self.options.controls))))

    def score(self) -> None:
        """Score the cells that have no scores yet, a network at a time."""
        missing = [cell for cell in self.cells() if not self.place(*cell).exists()]
        if not missing:
            return
        encoder, embeddings = self.encoder(), self.embeddings()
        for subject, cells in groupby(missing, key=lambda cell: cell[0]):
            network = self.network(subject)
            numbers = [neuron.number for neuron in self.neurons(subject)]
            control = control_activations(
                network, subject.layer, self.options.controls, self.options.control_images, self.options.seed
            ).T[numbers]
            activations = torch.from_numpy(
                np.stack([self.index.activations(f"{subject.address}/{number}") for number in numbers])
            )
            for _, choice in cells:
                texts = self.labels(subject, choice)
                rows = self.judge(subject, network, texts, control)
                rows["simulation"] = simulation(encoder, texts, activations, embeddings)
                self.keep(subject, choice, texts, rows)

    def embeddings(self) -> torch.Tensor:
        """Return the embeddings of all indexed images, [N, D]."""
        store = self.index.store
        info = catalog.encoder(store)
        return torch.cat(list(streams.embedding_tiles(store, info, catalog.shards(store, info.what))))

    def encoder(self) -> LoadedEncoder:
        """Load the encoder that judges, the one the index was built with."""
        encoder = load_encoder(self.options.encoder, device=self.options.device or "auto")
        if encoder.identity["weights"] != catalog.encoder(self.index.store).identity["weights"]:
            raise EvaluationError(f"the weights of {self.options.encoder} are not those the index was built with")
        return encoder

    def network(self, subject: Subject) -> LoadedNetwork:
        """Load a subject's network, and make sure it is the one in the index."""
        network = load_network(subject.spec, layers=[subject.layer], device=self.options.device or "auto")
        held = catalog.layer(self.index.store, LayerKey.parse(subject.address)).identity
        now = network.identity_of(subject.layer)
        if any(now.get(name) != held.get(name) for name in ("weights", "preprocessing", "sparse")):
            raise EvaluationError(
                f"{subject.spec} is not the network the index was built with: index into a new folder"
            )
        return network

    def judge(
        self, subject: Subject, network: LoadedNetwork, texts: Sequence[str | None], control: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return CoSy's metrics of the labels, [M] each; NaN for a neuron without a label, or one not to be drawn."""
        neurons = self.neurons(subject)
        live = [place for place, text in enumerate(texts) if text is not None]
        pairs = [(neurons[place].number, str(texts[place])) for place in live]
        values = torch.full((len(texts), self.options.pictures), torch.nan)
        values[live] = generated_activations(network, subject.layer, self.generator, pairs, self.settings()).values
        maximum = torch.tensor([neuron.maximum for neuron in neurons])
        return {"DMA": dma(values, maximum), "AUC": cosy_auc(values, control), "MAD": cosy_mad(values, control)}

    def keep(
        self, subject: Subject, choice: MethodChoice, texts: Sequence[str | None], rows: Mapping[str, torch.Tensor]
    ) -> None:
        """Write a cell's scores; what could not be computed is null."""
        table = [
            {"neuron": neuron.number, "label": text, **{name: number(rows[name][place]) for name in METRICS}}
            for place, (neuron, text) in enumerate(zip(self.neurons(subject), texts, strict=True))
        ]
        write(self.place(subject, choice), json.dumps(table, indent=1))
        self.tell(f"score: {subject.name} by {choice.text}")

    # table

    def table(self) -> None:
        """Write the table of means, ours beside the published ones."""
        cells = {(s.name, c.text): json.loads(self.place(s, c).read_text()) for s, c in self.cells()}
        settings = {name: str(value) for name, value in sorted(vars(self.options).items())}
        for name, text in paper_table.files(cells, METRICS, settings).items():
            write(self.out / name, text)
        self.tell(f"table: {self.out / 'table.md'}")


def simulation(
    encoder: LoadedEncoder, texts: Sequence[str | None], activations: torch.Tensor, embeddings: torch.Tensor
) -> torch.Tensor:
    """Return the correlation of activations [M, N] with the cosines of the bare labels' texts, [M]; NaN without one."""
    distinct = sorted({text for text in texts if text is not None})
    found = torch.full((len(texts),), torch.nan, dtype=torch.float64)
    if distinct:
        vectors = torch.cat([encoder.embed_texts(distinct[i : i + 256], ("{}",)) for i in range(0, len(distinct), 256)])
        live = [place for place, text in enumerate(texts) if text is not None]
        rows = [distinct.index(str(texts[place])) for place in live]
        found[live] = pearson(activations[live], vectors[rows] @ embeddings.T)
    return found


def number(value: torch.Tensor) -> float | None:
    """Return a finite value, or None."""
    return float(value) if bool(torch.isfinite(value)) else None


def digest(value: object) -> str:
    """Return the hash of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write(place: Path, text: str) -> None:
    """Write a file whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_name(f".{place.name}.draft")
    draft.write_text(text)
    os.replace(draft, place)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; the defaults are the paper's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("out", type=Path, help="folder of the run")
    add("--images", required=True, help="the ImageNet-1k validation images, a folder or anything csp-index reads")
    add("--controls", required=True, help="images to sample the controls from: COCO 2014 validation")
    add("--vocabulary", default="imagenet21k", help="candidate labels: a built-in name, or a text file, one a line")
    add("--templates", default="csp", help="what is said around a label before it is embedded")
    add("--encoder", default="open_clip:ViT-B-32/datacomp_xl_s13b_b90k")
    add("--generator", default="diffusers:stable-diffusion-v1-5/stable-diffusion-v1-5", help="or a local directory")
    add("--subject", dest="subjects", action="append", help=f"NAME=SPEC@LAYER; by default {' and '.join(SUBJECTS)}")
    add("--sae-topk", help="weights of the TopK autoencoder on the first subject: FILE[:topk=K][:places]")
    add("--sae-vanilla", help="weights of the ReLU autoencoder on the first subject: FILE[:places]")
    add("--method", dest="methods", action="append", help="as in csp-index evaluate; by default the paper's and ours")
    add("--neurons", type=int, default=200, help="neurons a subject")
    add("--top-mean", type=int, default=100, help="highest activations that rank a neuron, and images it must fire on")
    add("--overly-active", type=float, default=0.8, help="autoencoder features that fire on this share are left out")
    add("--examples", type=int, default=30, help="example images of the paper's methods")
    add("--pictures", type=int, default=20, help="generated pictures a label")
    add("--prompt", default="{}", help="what the generator is told for a label")
    add("--control-images", type=int, default=500)
    add("--seed", type=int, default=0)
    add("--device")
    add("--until", choices=STAGES, default=STAGES[-1], help="stop after this stage")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages up to the one asked for; 0, or 1 with an error told in one line."""
    started = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - started:7.1f} s  {line}", flush=True)

    try:
        options = parse(arguments)
        options.out.mkdir(parents=True, exist_ok=True)
        run = Reproduction(options, tell)
        stages = (run.make_index, run.label, run.generate, run.score, run.table)
        for stage in stages[: STAGES.index(options.until) + 1]:
            stage()
    except CspIndexError as exc:
        print(f"Error: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
