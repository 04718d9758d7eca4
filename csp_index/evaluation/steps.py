"""The steps of an evaluation, one per family of metrics: each computes values and adds them to the value table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import normalize

from csp_index.contrast.context import ComputeContext, Derive
from csp_index.contrast.examples import Examples
from csp_index.contrast.pool import pool_tiles
from csp_index.contrast.quality import ContrastQuality
from csp_index.contrast.selection import Selection
from csp_index.evaluation.choose_labels import ChosenLabels
from csp_index.evaluation.given_choice import GivenMethodLabels
from csp_index.evaluation.ground_truth import Truth, agreement, set_agreement
from csp_index.evaluation.hierarchy import Hierarchy
from csp_index.evaluation.image_pairs import ImagePairs, rises_of
from csp_index.evaluation.judge_labels import (
    JudgingImages,
    LabelTexts,
    activation_metrics,
    discrimination,
    neurons_told_apart,
    relatives_simulation,
)
from csp_index.evaluation.judge_neurons import neuron_metrics
from csp_index.evaluation.label_images import (
    GenerationSettings,
    ImageGenerator,
    control_activations,
    generated_activations,
    sample_rows,
)
from csp_index.evaluation.label_sums import LabelSums
from csp_index.evaluation.metadata_concepts import ConceptTable, concept_presence
from csp_index.evaluation.metrics.calibration import TextCalibration
from csp_index.evaluation.metrics.collisions import label_bits, label_shared
from csp_index.evaluation.metrics.detection import DETECTION, cosy_auc, cosy_mad, dma
from csp_index.evaluation.metrics.pair_test import pair_test
from csp_index.evaluation.metrics.structure import (
    broader_narrower_lead,
    clarity,
    consistency,
    label_sharing,
    polysemanticity,
    redundancy,
)
from csp_index.evaluation.options import EvaluationOptions
from csp_index.evaluation.perturbed_copies import copies_that_fire
from csp_index.evaluation.split import thinned
from csp_index.evaluation.value_table import ValueTable
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.evidence import bags, even
from csp_index.labelling.linear.presence import PresenceSigmoids
from csp_index.labelling.texts.candidate_names import Candidates, TextSpace, plain_candidates, template_key
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.index_models import Models
from csp_index.models.networks import LoadedNetwork
from csp_index.models.prompt_templates import templates
from csp_index.models.weights import device_name
from csp_index.records import DerivedKind, ExampleOptions, Progress
from csp_index.records.weighted_labels import WeightedLabel
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.image_metadata import metadata_texts
from csp_index.store.tables import Store
from csp_index.store.values import streams

Labels = list[str | None]  # the label of every neuron, by one method, as it is written
_CORRELATED = 2**26  # activations in memory at once to find neurons that fire alike
_OF_SCORES = ("agreement-rank", "agreement-reciprocal-rank")
_RELATIVES = 12  # broader and narrower words per label, at most


@dataclass(frozen=True, slots=True)
class Tools:
    """What the caller provides: candidate texts, a text encoder, the models behind the index, and their device."""

    candidates: Callable[[], CandidateTexts]
    candidates_key: str
    templates_key: str
    embed: Callable[[EncoderInfo, Sequence[str]], torch.Tensor]  # [T, D], the mean over the templates
    network: Callable[[LayerInfo], LoadedNetwork]
    encoder: Callable[[EncoderInfo], LoadedEncoder]
    derive: Mapping[DerivedKind, Derive] = field(default_factory=dict)  # makes contrastive images
    depends: Callable[[ExampleOptions], Mapping[str, object]] | None = None  # what these depend on besides the options
    device: str = "cpu"
    templates: Sequence[str] = ("{}",)  # of the texts that are embedded


def tools_of(models: Models, space: TextSpace, vocabulary: Candidates | None, context: ComputeContext) -> Tools:
    """Return the tools for the candidates of a vocabulary in an encoder's space, with the models behind the index."""
    texts, key = plain_candidates(space, vocabulary)

    def embed(judge: EncoderInfo, words: Sequence[str]) -> torch.Tensor:
        return models.held_encoder(judge).embed_texts(list(words), prompts)

    prompts = templates(space.template_set)
    sources = (models.held_network, models.held_encoder)
    derived = (context.derive, context.depends)
    return Tools(
        texts, key, template_key(space.template_set), embed, *sources, *derived, device_name(context.device), prompts
    )


@dataclass(frozen=True, slots=True)
class EvaluationContext:
    """What every step sees: the index, the neurons over the judging images, the candidates, the value table."""

    store: Store
    selection: Selection  # its pool is the judging images
    candidates: CandidateTexts
    options: EvaluationOptions
    tools: Tools
    value_table: ValueTable
    progress: Progress

    def embed(self, source: EncoderInfo, texts: Sequence[str]) -> torch.Tensor:
        """Return unit vectors [T, D] of texts; those of the candidates where all texts are candidates."""
        row_of = {text: row for row, text in enumerate(self.candidates.texts)}
        if source == self.selection.source and all(text in row_of for text in texts):
            return normalize(self.candidates.embeddings[[row_of[text] for text in texts]], dim=1)
        return normalize(self.tools.embed(source, texts), dim=1)

    def reads(self, source: EncoderInfo) -> bool:
        """Return whether the encoder can embed new texts; one imported as arrays cannot."""
        return not source.is_imported


def concepts_in(context: EvaluationContext, images: int, more: Sequence[str] = ()) -> ConceptTable | None:
    """Look for the candidates and `more` texts in the metadata of images 0 .. N - 1; None if no columns are named."""
    if context.options.concepts is None:
        return None
    pairs = metadata_texts(context.store, images)
    return concept_presence(pairs, [*context.candidates.texts, *more], context.options.concepts or None)


def label_texts_of(
    context: EvaluationContext,
    labels: Sequence[WeightedLabel | None],
    images: JudgingImages,
    concepts: ConceptTable | None,
) -> LabelTexts:
    """Return the labels to evaluate as the judging encoder embeds them, and the images whose metadata shows them."""
    # Without any label, the first candidate keeps the tensors from being empty.
    texts = tuple(sorted({term.text for label in labels if label for term in label.terms}))
    texts = texts or context.candidates.texts[:1]
    vectors = context.embed(images.source, texts)
    cosines = vectors @ images.fit_embeddings.T
    calibrated = PresenceSigmoids.fit(cosines), TextCalibration.fit(cosines)
    shown = (None, None) if concepts is None else concepts.presence(texts, images.judging.nonzero()[:, 0].numpy())
    return LabelTexts(vectors, LabelSums.of(labels, texts), *calibrated, *shown)


def evaluate_activations(
    context: EvaluationContext, images: JudgingImages, label_texts: LabelTexts, method: str, labels: Labels
) -> torch.Tensor:
    """Add simulation, detection and the reach of labels; return the simulation correlations [M]."""
    unknown = "the label is not a value of the metadata" if label_texts.presence is not None else None
    values_of = activation_metrics(images, label_texts, context.progress)
    for metric, values in values_of.items():
        context.value_table.add(method, metric, values, labels, unknown if metric in DETECTION else None)
    context.value_table.add(method, "label-neurons", label_sharing(labels), labels)
    return values_of["simulation"]


def evaluate_contrast(
    context: EvaluationContext,
    images: JudgingImages,
    label_texts: LabelTexts,
    examples: Examples,
    method: str,
    labels: Labels,
) -> None:
    """Add how well labels separate activating from contrastive judging images."""
    context.value_table.add(method, "discriminative", discrimination(images, label_texts, examples), labels)


def evaluate_collisions(
    context: EvaluationContext,
    images: JudgingImages,
    label_texts: LabelTexts,
    examples: Examples,
    method: str,
    labels: Labels,
) -> None:
    """Add whether neurons share their labels, and whether a label tells its neuron from those."""
    values = neurons_told_apart(images, label_texts, examples)
    context.value_table.add(method, "label-discrimination", values, labels)
    context.value_table.add(method, "label-shared", label_shared(labels), labels)
    context.value_table.add(method, "label-bits", label_bits(labels), labels)


def evaluate_agreement(
    context: EvaluationContext,
    method: str,
    method_labels: ChosenLabels | GivenMethodLabels,
    truth: Truth,
    hierarchy: Hierarchy | None,
    concepts: ConceptTable | None,
) -> None:
    """Add agreement with the truth; the truth is ranked among all candidates, and graded by what words are true of.

    Without scores the truth has no rank.
    """
    source = context.selection.source
    texts = {text for texts in truth.accepted.values() for text in texts}
    new = texts.union(method_labels.texts) - set(context.candidates.texts)
    embed = (lambda texts: context.embed(source, texts)) if context.reads(source) or not new else None
    ranked = dict(zip(context.selection.neurons.tolist(), method_labels.ranked_texts(), strict=True))
    result = agreement(truth, ranked, method_labels.texts, method_labels.scores, embed, hierarchy, concepts)
    for metric, values in result.values.items():
        if method_labels.scores is not None or metric not in _OF_SCORES:
            context.value_table.add(method, metric, values, method_labels.labels, result.notes[metric])
    if isinstance(method_labels, ChosenLabels):
        sets = dict(zip(context.selection.neurons.tolist(), method_labels.predicted_texts(), strict=True))
        values, notes = set_agreement(truth, sets)
        context.value_table.add(method, "agreement-set", values, method_labels.labels, notes)


def evaluate_hierarchy(
    context: EvaluationContext,
    images: JudgingImages,
    hierarchy: Hierarchy,
    method: str,
    labels: Labels,
    simulation: torch.Tensor,
) -> None:
    """Add the depth of labels, and their lead over the directly broader and narrower words."""
    relatives_of = {
        text: (*hierarchy.parents(text), *hierarchy.children(text))[:_RELATIVES] for text in labels if text is not None
    }
    depth = torch.tensor([float("nan") if text is None else hierarchy.depth(text) for text in labels])
    context.value_table.add(method, "depth", depth, labels)
    texts = sorted({relative for words in relatives_of.values() for relative in words})
    if not context.reads(images.source) and not set(texts) <= set(context.candidates.texts):
        return
    vectors = context.embed(images.source, texts) if texts else torch.zeros(1, images.source.width)
    row_of = {text: row for row, text in enumerate(texts)}
    rows = torch.full((len(labels), _RELATIVES), -1, dtype=torch.int64)
    for neuron, text in enumerate(labels):
        own = [row_of[relative] for relative in relatives_of.get(text or "", ())]
        rows[neuron, : len(own)] = torch.tensor(own, dtype=torch.int64)
    relatives = relatives_simulation(images, vectors, rows)
    context.value_table.add(method, "relatives-lead", broader_narrower_lead(simulation.float(), relatives), labels)


def evaluate_quality(
    context: EvaluationContext, method: str, method_labels: ChosenLabels, quality: ContrastQuality
) -> None:
    """Add the quality of the contrast on which a method's labels rest; no value where no image has a partner."""
    unpaired = torch.from_numpy(quality.pairs == 0)
    columns = {
        "contrast-partnered": quality.partnered,
        "contrast-similarity": quality.similarity,
        "contrast-near": quality.near,
        "contrast-drop": quality.drop,
        "contrast-duplicates": quality.duplicates,
        "contrast-poor": quality.poor,
    }
    for metric, column in columns.items():
        values = torch.from_numpy(column).double().masked_fill(unpaired, torch.nan)
        context.value_table.add(method, metric, values, method_labels.labels)


def evaluate_consistency(
    context: EvaluationContext, images: JudgingImages, label_texts: LabelTexts, method: str, labels: Labels
) -> None:
    """Add whether neurons that fire alike carry similar labels."""
    count = max(64, _CORRELATED // len(context.selection.neurons))
    mask = thinned(images.judging, count, context.options.seed)
    activations = torch.cat(list(pool_tiles(context.store, images.target, images.neurons, mask)), 1)
    result = consistency(activations, label_texts.sums.directions(label_texts.vectors), labels)
    context.value_table.add(method, "consistency", result.same_label, labels)
    context.value_table.add(method, "consistency-text", result.text_cosine, labels)


def evaluate_neurons(context: EvaluationContext, examples: Examples) -> None:
    """Add the metrics of the neurons themselves: clarity, polysemanticity, redundancy of their activating images."""
    ids = examples.activating[examples.activating >= 0].unique()
    rows = torch.searchsorted(ids, examples.activating.clamp(min=0)).masked_fill(examples.activating < 0, -1)
    vectors = streams.embeddings_of(context.store, context.selection.source, ids.numpy())
    if not len(ids):
        vectors = torch.zeros(1, context.selection.source.width)
    means = bags(vectors, rows, even(rows >= 0))
    context.value_table.add("", "clarity", clarity(vectors, rows))
    context.value_table.add("", "polysemanticity", polysemanticity(vectors, rows))
    context.value_table.add("", "redundancy", redundancy(means))


def evaluate_separability(context: EvaluationContext, images: JudgingImages) -> None:
    """Add whether the judging encoder separates the neurons' activating images from silent ones."""
    for metric, values in neuron_metrics(images, context.progress).items():
        context.value_table.add("", metric, values)


def evaluate_sensitivity(context: EvaluationContext, examples: Examples) -> None:
    """Add whether copies of the activating images that show the same still fire the neuron."""
    target, columns = context.selection.target, torch.from_numpy(context.selection.neurons)
    ids = examples.activating[examples.activating >= 0].unique()
    means = torch.from_numpy(context.selection.statistics(context.store)["mean"].to_numpy().copy()).float()
    values = torch.full((len(columns),), torch.nan)
    if len(ids):
        shares = copies_that_fire(
            context.store,
            ids,
            means.clamp(min=0),
            context.tools.network(target),
            lambda layers: layers[target.key.layer][:, columns],
            context.progress,
        )
        rows = torch.searchsorted(ids, examples.activating.clamp(min=0))
        present = examples.activating >= 0
        values = (shares.T.gather(1, rows) * present).sum(1) / present.sum(1)
    context.value_table.add("", "sensitivity", values)


def evaluate_pairs(context: EvaluationContext, pairs: ImagePairs, method: str, labels: Labels) -> None:
    """Add how neurons answer to pairs of images that differ in their label."""
    images = context.selection.images(context.store)
    neurons = context.selection.neurons
    rises = rises_of(context.store, context.selection.target, neurons, pairs, images)
    result = pair_test(rises, pairs.differs, pairs.rows(labels))
    context.value_table.add(method, "pair-gain", result.gain, labels)
    context.value_table.add(method, "pair-right", result.right, labels)


def evaluate_generated(
    context: EvaluationContext, generator: ImageGenerator, method: str, weighted: Sequence[WeightedLabel | None]
) -> None:
    """Add CoSy's metrics: activations on images generated from the labels, against control images.

    A weighted sum of texts is nothing that a generator can draw.
    """
    labels = [label.text if label else None for label in weighted]
    drawn = [None if label is None or label.is_sum else label.text for label in weighted]
    options, target = context.options, context.selection.target
    network = context.tools.network(target)
    settings = GenerationSettings(options.generated, options.seed, options.prompt)
    neurons = context.selection.neurons
    pairs = [(int(neuron), text) for neuron, text in zip(neurons, drawn, strict=True) if text is not None]
    generated = generated_activations(network, target.key.layer, generator, pairs, settings, context.progress)
    control = _controls(context, network)
    maximum = torch.from_numpy(catalog.neuron_rows(context.store, target, neurons.tolist())["max"].to_numpy().copy())
    values = torch.full((len(labels), options.generated), torch.nan)
    values[torch.tensor([text is not None for text in drawn], dtype=torch.bool)] = generated.values
    undrawn = "a weighted sum of texts is not drawn"
    notes = [generated.failures.get(text, "") if text else undrawn for text in drawn]
    context.value_table.add(method, "cosy-auc", cosy_auc(values, control), labels, notes)
    context.value_table.add(method, "cosy-mad", cosy_mad(values, control), labels, notes)
    dma_notes = [note or "its maximal activation is not above 0" for note in notes]
    context.value_table.add(method, "dma", dma(values, maximum), labels, dma_notes)


def _controls(context: EvaluationContext, network: LoadedNetwork) -> torch.Tensor:
    """Return activations on control images [M, G]: those of the options, or a sample of the judging images."""
    options, target = context.options, context.selection.target
    if options.controls is not None:
        activations = control_activations(
            network, target.key.layer, options.controls, options.control_count, options.seed, context.progress
        )
        return activations.T[torch.from_numpy(context.selection.neurons)]
    judging = context.selection.pool.mask if context.selection.pool else torch.zeros(0, dtype=torch.bool)
    ids = judging.nonzero()[:, 0]
    mask = torch.zeros_like(judging)
    mask[ids[sample_rows(len(ids), options.control_count, options.seed)]] = True
    return torch.cat(list(pool_tiles(context.store, target, context.selection.neurons, mask)), 1)
