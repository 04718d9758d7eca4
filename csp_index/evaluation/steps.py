"""The families of metrics, each one step of an evaluation: what it needs, and the values it adds to the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import normalize

from csp_index.contrast.context import Derive
from csp_index.contrast.examples import Examples
from csp_index.contrast.selection import Subject, pool_tiles
from csp_index.evaluation.choose_labels import Chosen
from csp_index.evaluation.ground_truth import Truth, agreement
from csp_index.evaluation.hierarchy import Hierarchy
from csp_index.evaluation.judge_labels import Bench, Words, discrimination, judge, relatives_simulation
from csp_index.evaluation.label_images import (
    GenerationSettings,
    ImageGenerator,
    control_activations,
    generated_activations,
    sample_rows,
)
from csp_index.evaluation.metadata_concepts import ConceptTable, concept_presence
from csp_index.evaluation.metrics.detection import DETECTION, cosy_auc, cosy_mad, dma
from csp_index.evaluation.metrics.structure import (
    broader_narrower_lead,
    clarity,
    consistency,
    label_sharing,
    polysemanticity,
    redundancy,
)
from csp_index.evaluation.options import EvaluationOptions
from csp_index.evaluation.split import thinned
from csp_index.evaluation.value_table import Ledger
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.evidence import bags, even
from csp_index.models.encoders import Encoder
from csp_index.models.networks import Network
from csp_index.records import DerivedKind, ExampleOptions
from csp_index.store import catalog, schema, streams
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

Tell = Callable[[int, int, str], None]
Labels = list[str | None]  # the label of every neuron, by one method
_CORRELATED = 2**26  # activations held at once to find neurons that fire alike
_RELATIVES = 12  # broader and narrower words looked at for each label


@dataclass(frozen=True, slots=True)
class Tools:
    """What an evaluation calls from outside: candidate texts, a text encoder, and the models behind the index."""

    candidates: Callable[[], CandidateTexts]
    candidates_key: str
    templates_key: str
    embed: Callable[[EncoderInfo, Sequence[str]], torch.Tensor]  # [T, D], the mean over the labels' templates
    network: Callable[[LayerInfo], Network]
    encoder: Callable[[EncoderInfo], Encoder]
    derive: Mapping[DerivedKind, Derive] = field(default_factory=dict)  # makes contrastive images
    depends: Callable[[ExampleOptions], Mapping[str, object]] | None = None  # what these hang on beside the options


@dataclass(frozen=True, slots=True)
class Court:
    """What every step sees: the index, the neurons over the judging images, the candidates, the ledger."""

    store: Store
    subject: Subject  # its pool is the judging images
    candidates: CandidateTexts
    options: EvaluationOptions
    tools: Tools
    ledger: Ledger
    tell: Tell

    def embed(self, source: EncoderInfo, texts: Sequence[str]) -> torch.Tensor:
        """Return unit vectors [T, D] of texts; the candidates' own where all texts are candidates."""
        place = {text: row for row, text in enumerate(self.candidates.texts)}
        if source == self.subject.source and all(text in place for text in texts):
            return normalize(self.candidates.embeddings[[place[text] for text in texts]], dim=1)
        return normalize(self.tools.embed(source, texts), dim=1)

    def reads(self, source: EncoderInfo) -> bool:
        """Tell whether the encoder can embed new texts; one that came as arrays cannot."""
        return source.identity.get("library") != "arrays"


def concepts_in(court: Court, images: int) -> ConceptTable | None:
    """Look for all candidates in the metadata of the images 0 .. N - 1; None where no columns are named."""
    if court.options.concepts is None:
        return None
    batches = court.store.scan(schema.IMAGES, ["image_id", "metadata"], where=f"image_id < {images}")
    pairs = (pair for batch in batches for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True))
    return concept_presence(pairs, court.candidates.texts, court.options.concepts or None)


def words_of(court: Court, labels: Labels, bench: Bench, concepts: ConceptTable | None) -> Words:
    """Return the labels under judgement as the judging encoder sees them, and where the metadata shows them."""
    # A word that no neuron carries stands in where there is no label at all.
    texts = tuple(sorted({text for text in labels if text is not None})) or court.candidates.texts[:1]
    vectors = court.embed(bench.source, texts)
    if concepts is None:
        return Words(texts, vectors)
    presence, known = concepts.presence(texts, bench.judging.nonzero()[:, 0].numpy())
    return Words(texts, vectors, presence, known)


def judge_activations(court: Court, bench: Bench, words: Words, method: str, labels: Labels) -> torch.Tensor:
    """Add simulation, detection and reach; return the simulation correlations [M]."""
    unknown = "the label is no value of the metadata" if words.presence is not None else None
    found = judge(bench, words, labels, court.tell)
    for metric, values in found.items():
        court.ledger.add(method, metric, values, labels, unknown if metric in DETECTION else None)
    court.ledger.add(method, "label-neurons", label_sharing(labels), labels)
    return found["simulation"]


def judge_contrast(court: Court, bench: Bench, words: Words, examples: Examples, method: str, labels: Labels) -> None:
    """Add how well labels tell activating from contrastive judging images."""
    court.ledger.add(method, "discriminative", discrimination(bench, words, labels, examples), labels)


def judge_agreement(court: Court, method: str, chosen: Chosen, truth: Truth, hierarchy: Hierarchy | None) -> None:
    """Add agreement with the truth; the rank of the truth is among all candidates."""
    source = court.subject.source
    new = {text for texts in truth.accepted.values() for text in texts} - set(court.candidates.texts)
    embed = (lambda texts: court.embed(source, texts)) if court.reads(source) or not new else None
    ranked = dict(zip(court.subject.neurons.tolist(), chosen.ranked_texts(), strict=True))
    result = agreement(truth, ranked, chosen.texts, chosen.scores, embed, hierarchy)
    for metric, values in result.values.items():
        court.ledger.add(method, metric, values, chosen.labels, result.notes[metric])


def judge_hierarchy(
    court: Court, bench: Bench, hierarchy: Hierarchy, method: str, labels: Labels, simulation: torch.Tensor
) -> None:
    """Add the depth of labels, and their lead over the next broader and narrower words."""
    near = {
        text: (*hierarchy.parents(text), *hierarchy.children(text))[:_RELATIVES] for text in labels if text is not None
    }
    depth = torch.tensor([float("nan") if text is None else hierarchy.depth(text) for text in labels])
    court.ledger.add(method, "depth", depth, labels)
    texts = sorted({relative for found in near.values() for relative in found})
    if not court.reads(bench.source) and not set(texts) <= set(court.candidates.texts):
        return
    vectors = court.embed(bench.source, texts) if texts else torch.zeros(1, bench.source.width)
    place = {text: row for row, text in enumerate(texts)}
    rows = torch.full((len(labels), _RELATIVES), -1, dtype=torch.int64)
    for neuron, text in enumerate(labels):
        found = [place[relative] for relative in near.get(text or "", ())]
        rows[neuron, : len(found)] = torch.tensor(found, dtype=torch.int64)
    relatives = relatives_simulation(bench, vectors, rows)
    court.ledger.add(method, "relatives-lead", broader_narrower_lead(simulation.float(), relatives), labels)


def judge_consistency(court: Court, bench: Bench, words: Words, method: str, labels: Labels) -> None:
    """Add whether neurons that fire alike carry alike labels."""
    count = max(64, _CORRELATED // len(court.subject.neurons))
    mask = thinned(bench.judging, count, court.options.seed)
    activations = torch.cat(list(pool_tiles(court.store, bench.target, bench.neurons, mask)), 1)
    found = consistency(activations, words.vectors[words.rows(labels).clamp(min=0)], labels)
    court.ledger.add(method, "consistency", found.same_label, labels)
    court.ledger.add(method, "consistency-text", found.text_cosine, labels)


def judge_neurons(court: Court, examples: Examples) -> None:
    """Add what belongs to the neurons themselves: clarity, polysemanticity, redundancy of their activating images."""
    ids = examples.activating[examples.activating >= 0].unique()
    places = torch.searchsorted(ids, examples.activating.clamp(min=0)).masked_fill(examples.activating < 0, -1)
    vectors = streams.embeddings_of(court.store, court.subject.source, ids.numpy())
    if not len(ids):
        vectors = torch.zeros(1, court.subject.source.width)
    means = bags(vectors, places, even(places >= 0))
    court.ledger.add("", "clarity", clarity(vectors, places))
    court.ledger.add("", "polysemanticity", polysemanticity(vectors, places))
    court.ledger.add("", "redundancy", redundancy(means))


def judge_generated(court: Court, generator: ImageGenerator, method: str, labels: Labels) -> None:
    """Add CoSy's metrics: what neurons do on images made from their labels, against control images."""
    options, target = court.options, court.subject.target
    network = court.tools.network(target)
    settings = GenerationSettings(options.generated, options.seed, options.prompt)
    neurons = court.subject.neurons
    pairs = [(int(neuron), text) for neuron, text in zip(neurons, labels, strict=True) if text is not None]
    made = generated_activations(network, target.key.layer, generator, pairs, settings, court.tell)
    control = _controls(court, network)
    maximum = torch.from_numpy(catalog.neuron_rows(court.store, target, neurons.tolist())["max"].to_numpy().copy())
    values = torch.full((len(labels), options.generated), torch.nan)
    values[torch.tensor([text is not None for text in labels], dtype=torch.bool)] = made.values
    why = [made.failures.get(text or "", "") for text in labels]
    court.ledger.add(method, "cosy-auc", cosy_auc(values, control), labels, why)
    court.ledger.add(method, "cosy-mad", cosy_mad(values, control), labels, why)
    spent = [note or "its maximal activation is not above 0" for note in why]
    court.ledger.add(method, "dma", dma(values, maximum), labels, spent)


def _controls(court: Court, network: Network) -> torch.Tensor:
    """Return the neurons' activations on control images [M, G]: those given, or a sample of the judging ones."""
    options, target = court.options, court.subject.target
    if options.controls is not None:
        found = control_activations(
            network, target.key.layer, options.controls, options.control_count, options.seed, court.tell
        )
        return found.T[torch.from_numpy(court.subject.neurons)]
    judging = court.subject.pool.mask if court.subject.pool else torch.zeros(0, dtype=torch.bool)
    ids = judging.nonzero()[:, 0]
    mask = torch.zeros_like(judging)
    mask[ids[sample_rows(len(ids), options.control_count, options.seed)]] = True
    return torch.cat(list(pool_tiles(court.store, target, court.subject.neurons, mask)), 1)
