"""The evaluation itself: choose labels on one part of the images, evaluate them on another, store every value.

Each method's values are stored as soon as they are complete, under the hash of all they depend on. A repeated
evaluation is read, one with an additional method computes that method alone, and an interrupted one resumes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from csp_index.contrast.context import ComputeContext
from csp_index.contrast.embeddings import release
from csp_index.contrast.examples import Examples, activating_sets, gather_examples
from csp_index.contrast.pool import draw_pool
from csp_index.contrast.selection import Selection
from csp_index.errors import EvaluationError
from csp_index.evaluation import steps
from csp_index.evaluation.choose_labels import Chooser, ChosenLabels, others, perturbed, relabeled
from csp_index.evaluation.evaluation import VALUES, Evaluation
from csp_index.evaluation.given_choice import GivenChoice, GivenMethodLabels, read_choices
from csp_index.evaluation.graded_truth import read_word_items
from csp_index.evaluation.ground_truth import Truth, read_truth
from csp_index.evaluation.hierarchy import Hierarchy, load_hierarchy
from csp_index.evaluation.image_pairs import ImagePairs, read_pairs
from csp_index.evaluation.judge_labels import FITTED, JudgingImages, read_judging_images
from csp_index.evaluation.metadata_concepts import ConceptTable
from csp_index.evaluation.metrics.table import METRICS, NEEDS
from csp_index.evaluation.options import EvaluationOptions, MethodChoice
from csp_index.evaluation.perturbed_copies import PERTURBATIONS
from csp_index.evaluation.split import Split, draw_split, keep_split, read_split, thinned, without
from csp_index.evaluation.steps import EvaluationContext, Tools
from csp_index.evaluation.value_table import ValueTable
from csp_index.files.regular_files import read_bytes, user_path
from csp_index.images.decode import uris_of
from csp_index.images.sources import open_source
from csp_index.labelling import scoring
from csp_index.labelling.request import LabelRequest, make_request
from csp_index.models.generators.image_generators import ImageGenerator, load_generator
from csp_index.records import ExampleOptions, Progress
from csp_index.settings import MAX_TEXT_BYTES
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo
from csp_index.store.image_metadata import check_columns, metadata_state
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.tables import Store
from csp_index.tensors.torch_threads import threads_for

Choice = MethodChoice | GivenChoice
_OF_EXAMPLES = {f"stable-{kind}" for kind in PERTURBATIONS}  # what says nothing of a method that looks at all images


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """What is read before anything is computed, so that bad input is reported at once."""

    split: Split
    judge: EncoderInfo
    truth: Truth | None
    hierarchy: Hierarchy | None
    generator: ImageGenerator | None
    word_items: ConceptTable | None
    given: Mapping[str, GivenChoice]  # labels made elsewhere, by name
    pairs: ImagePairs | None


def evaluate(
    store: Store,
    selection: Selection,
    options: EvaluationOptions,
    tools: Tools,
    progress: Progress,
    *,
    recompute: bool = False,
) -> Evaluation:
    """Return how faithful the methods' labels of selected neurons are; stored values are read.

    Errors: EvaluationError, or NotFoundError for what the index does not hold, in one line, before anything is written.
    """
    inputs = _read_inputs(store, selection, options, tools)
    described = _describe(store, selection, options, inputs, tools)
    choices: dict[str, Choice | None] = {
        "": None,
        **{choice.text: choice for choice in options.methods},
        **inputs.given,
    }
    hashes = {
        text: settings_hash(described | _contrast_settings(selection, options, tools, choice))
        for text, choice in choices.items()
    }
    stored = {} if recompute else _stored_values(store, selection, hashes)
    missing = {text: choice for text, choice in choices.items() if text not in stored}
    if missing:
        with store.write_lock():
            models = {
                selection.source.name: selection.source.identity,
                str(selection.target.key): selection.target.identity,
            }
            settings = {**described, "methods": [text for text in missing if text]}
            with record_run(store, "evaluate", settings, models, options.seed) as run:
                keep_split(store, inputs.split)
                prepared = _prepare(store, selection, options, inputs, tools, progress)
                for done, (text, choice) in enumerate(missing.items()):
                    progress(done, len(missing), "methods")
                    with threads_for(_products(prepared, inputs)):
                        values = _values(prepared, inputs, choice)
                    _store_values(store, selection, hashes[text], run.run_id, text, values)
                progress(len(missing), len(missing), "methods")
        stored = _stored_values(store, selection, hashes)
    rows = pa.concat_tables([stored[text] for text in choices])
    runs = sorted(set(rows["run_id"].to_pylist()))
    settings = {**described, "methods": [text for text in choices if text], "split": inputs.split.as_json()}
    if inputs.given:
        settings["labels"] = {name: choice.described() for name, choice in inputs.given.items()}
    left_out = _left_out(options)
    if inputs.pairs is not None and inputs.pairs.passed_over:
        left_out["some pairs of images"] = inputs.pairs.passed_over
    return Evaluation(rows.select(VALUES.names), {**settings, "runs": runs}, runs[-1], left_out)


def _contrast_settings(
    selection: Selection, options: EvaluationOptions, tools: Tools, choice: Choice | None
) -> dict[str, object]:
    """Return what one method's values depend on through edited or generated contrastive images, or made elsewhere."""
    if isinstance(choice, GivenChoice):
        return {"given": choice.given.digest}
    if choice is None or tools.depends is None or not scoring.method(choice.method).info.needs_contrast:
        return {}
    request = make_request(choice.method, selection.source, 1, {**options.label_defaults, **choice.options})
    return dict(tools.depends(request.examples))


def _stored_values(store: Store, selection: Selection, hashes: Mapping[str, str]) -> dict[str, pa.Table]:
    """Return each method's stored values under its settings hash, those of the newest run that evaluated it."""
    stored = {}
    for settings in dict.fromkeys(hashes.values()):
        rows = store.read(schema.EVALUATIONS, where=_where(selection, settings))
        for text in rows["method"].unique().to_pylist():
            if hashes.get(text) == settings:
                part = rows.filter(pc.equal(rows["method"], text))
                stored[text] = part.filter(pc.equal(part["run_id"], pc.max(part["run_id"])))
    return stored


def _store_values(store: Store, selection: Selection, hashed: str, run_id: str, method: str, values: pa.Table) -> None:
    """Store a method's values in place of its older ones."""
    size = values.num_rows
    rows = values.add_column(0, "settings_hash", pa.array([hashed] * size))
    rows = rows.add_column(0, "run_id", pa.array([run_id] * size))
    store.append(schema.EVALUATIONS, rows.cast(schema.table_schema(schema.EVALUATIONS)))
    older = f"method = {catalog.sql_text(method)} AND run_id != {catalog.sql_text(run_id)}"
    store.delete(schema.EVALUATIONS, f"{_where(selection, hashed)} AND {older}")
    store.checkpoint()


def _where(selection: Selection, hashed: str) -> str:
    return f"settings_hash = {catalog.sql_text(hashed)} AND {catalog.layer_filter(selection.target)}"


def _check_request(store: Store, selection: Selection, request: LabelRequest) -> None:
    """Refuse a request that lacks the encoder's scale, or more examples than the index keeps; reads one neuron."""
    _ = request.dataset_scale
    activating_sets(selection.statistics(store).slice(0, 1), request.examples)


def _read_inputs(store: Store, selection: Selection, options: EvaluationOptions, tools: Tools) -> EvaluationInputs:
    """Read every input. Errors: EvaluationError where an input is unusable or options do not go together."""
    images = selection.images(store)
    if options.choose_on is not None and options.judge_on is not None:
        split = read_split(store, images, options.choose_on, options.judge_on)
    else:
        split = draw_split(images, held_out=options.held_out, seed=options.seed)
    judge = selection.source if options.judge is None else catalog.encoder(store, options.judge)
    _check_models(selection, options, judge)
    given = read_choices(store, selection, options, judge, tools)
    for choice in options.methods:
        if choice.text in given:
            continue
        request = make_request(choice.method, selection.source, 1, {**options.label_defaults, **choice.options})
        _check_request(store, selection, request)
    truth = None if options.truth is None else read_truth(options.truth, selection.target.key, selection.target.neurons)
    if options.concepts:
        check_columns(store, options.concepts)
    hierarchy = None if options.hierarchy is None else load_hierarchy(options.hierarchy)
    generator = None
    if options.generator is not None:
        generator = load_generator(options.generator, device=tools.device, cache=options.drawings)
    word_items = None if options.word_items is None else read_word_items(options.word_items)
    pairs = None if options.pairs is None else read_pairs(options.pairs, store, images)
    if pairs is not None:
        split = without(split, pairs.mask(images))
    return EvaluationInputs(split, judge, truth, hierarchy, generator, word_items, given, pairs)


def _check_models(selection: Selection, options: EvaluationOptions, judge: EncoderInfo) -> None:
    """Refuse options that need a model where the index has only arrays."""
    if judge != selection.source and judge.is_imported:
        raise EvaluationError(
            f"encoder {judge.name} was imported as arrays, so it cannot embed the labels to evaluate: "
            "name one that was indexed with its model"
        )
    if options.generator is not None and selection.target.is_imported:
        raise EvaluationError(
            f"layer {selection.target.key} was imported as arrays, so generated images cannot be run through its "
            "network: leave the generator out"
        )
    if options.perturb and (selection.target.is_imported or selection.source.is_imported):
        raise EvaluationError(
            f"layer {selection.target.key} or its encoder was imported as arrays, so perturbed images cannot be run "
            "through them: leave perturbation out"
        )


def _left_out(options: EvaluationOptions) -> dict[str, str]:
    """Return what is not evaluated for lack of an option, with the reason; concepts () are all columns."""
    return {part.part: part.reason for option, part in NEEDS.items() if getattr(options, option) in (None, 0, False)}


def _describe(
    store: Store, selection: Selection, options: EvaluationOptions, inputs: EvaluationInputs, tools: Tools
) -> dict[str, object]:
    """Return all that the values of one method depend on."""
    choices = asdict(replace(options, methods=options.methods[:1]))
    paths = {name: getattr(options, name) for name in ("truth", "hierarchy", "word_items", "pairs")}
    # The content of the files counts, not their location.
    for name in ("methods", "drawings", "labels", "labels_layer", *paths):
        choices.pop(name)
    files = {name: _digest(path) for name, path in paths.items() if path}
    return {
        **choices,
        "files": files,
        "controls_key": None if options.controls is None else _listing(options.controls),
        "layer": str(selection.target.key),
        "layer_identity": selection.target.identity,
        "neurons": len(selection.neurons),
        "neurons_hash": hashlib.sha256(json.dumps(selection.neurons.tolist()).encode()).hexdigest()[:16],
        "encoder": selection.source.name,
        "encoder_identity": selection.source.identity,
        "judge": inputs.judge.name,
        "judge_identity": inputs.judge.identity,
        "same_encoder": inputs.judge == selection.source,
        "split_key": inputs.split.key,
        "generator_identity": None if inputs.generator is None else inputs.generator.identity,
        "candidates": tools.candidates_key,
        "templates": tools.templates_key,
        "metrics_key": hashlib.sha256(json.dumps(list(METRICS)).encode()).hexdigest()[:16],  # of this version
        "detection": "calibrated text probabilities" if options.concepts is None else "metadata columns",
        **({} if options.concepts is None else metadata_state(store)),
        **({} if inputs.truth is None else {"agreement": "graded"}),
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(read_bytes(user_path(path), MAX_TEXT_BYTES)).hexdigest()[:16]


def _listing(location: str) -> str:
    """Return a hash of the images at a location: their addresses, sizes and modification times."""
    uris = list(uris_of(open_source(location)))
    states = [(os.stat(uri).st_size, os.stat(uri).st_mtime_ns) if os.path.exists(uri) else () for uri in uris]
    return hashlib.sha256(json.dumps([uris, states]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class PreparedEvaluation:
    """What all methods of one evaluation share, read once: the images that choose and those that judge."""

    context: EvaluationContext
    judging_images: JudgingImages
    chooser: Chooser  # sees the choosing images
    others: Sequence[tuple[str, Chooser]]  # see other images
    examples: Examples  # of the judging images
    concepts: ConceptTable | None


def _prepare(
    store: Store,
    selection: Selection,
    options: EvaluationOptions,
    inputs: EvaluationInputs,
    tools: Tools,
    progress: Progress,
) -> PreparedEvaluation:
    judging = thinned(inputs.split.judging, options.most_judging, options.seed)
    pool = draw_pool(store, selection.target, selection.neurons, judging)
    low, high = (torch.from_numpy(pool.rows[name].to_numpy().copy()) for name in ("min", "max"))
    kinds = [inputs.truth.kind(neuron) if inputs.truth else "" for neuron in selection.neurons.tolist()]
    value_table = ValueTable(selection, kinds, low == high)
    context = EvaluationContext(
        store, replace(selection, pool=pool), tools.candidates(), options, tools, value_table, progress
    )
    chooser = Chooser(store, selection, context.candidates, tools.device, options.label_defaults, tools.derive)
    fitting = thinned(inputs.split.choosing, FITTED, options.seed)
    return PreparedEvaluation(
        context,
        read_judging_images(store, inputs.judge, selection.target, selection.neurons, fitting, judging, options.alpha),
        chooser.on(inputs.split.choosing),
        others(chooser, inputs.split, options.resamples, progress),
        gather_examples(store, context.selection, ExampleOptions(), context=ComputeContext(tools.device)),
        steps.concepts_in(context, len(judging), _texts(inputs)),
    )


def _products(prepared: PreparedEvaluation, inputs: EvaluationInputs) -> float:
    """Return about how many products of two numbers a method takes, without bound where models run."""
    context = prepared.context
    if inputs.generator is not None or inputs.given or context.options.perturb:
        return math.inf
    rows = len(context.candidates.texts) + prepared.examples.activating.numel()
    return float(context.selection.source.width * rows * prepared.examples.images)


def _values(prepared: PreparedEvaluation, inputs: EvaluationInputs, choice: Choice | None) -> pa.Table:
    """Return the values of one method, or those of the neurons themselves."""
    context, images = prepared.context, prepared.judging_images
    if choice is None:
        steps.evaluate_neurons(context, prepared.examples)
        steps.evaluate_separability(context, images)
        if context.options.perturb:
            steps.evaluate_sensitivity(context, prepared.examples)
        return context.value_table.take()
    if isinstance(choice, GivenChoice):
        method_labels: ChosenLabels | GivenMethodLabels = _given(prepared, inputs, choice)
    else:
        method_labels = _choose(prepared, inputs, choice)
    release(context.store)  # the judging images have their own copy
    method, labels = choice.text, method_labels.labels
    label_texts = steps.label_texts_of(context, method_labels.weighted, images, prepared.concepts)
    simulation = steps.evaluate_activations(context, images, label_texts, method, labels)
    steps.evaluate_contrast(context, images, label_texts, prepared.examples, method, labels)
    steps.evaluate_collisions(context, images, label_texts, prepared.examples, method, labels)
    steps.evaluate_consistency(context, images, label_texts, method, labels)
    if inputs.hierarchy is not None:
        steps.evaluate_hierarchy(context, images, inputs.hierarchy, method, labels, simulation)
    if inputs.pairs is not None:
        steps.evaluate_pairs(context, inputs.pairs, method, labels)
    if inputs.generator is not None:
        steps.evaluate_generated(context, inputs.generator, method, method_labels.weighted)
    return context.value_table.take()


def _choose(prepared: PreparedEvaluation, inputs: EvaluationInputs, choice: MethodChoice) -> ChosenLabels:
    """Choose a method's labels on the choosing images; add the metrics that follow from the choice alone."""
    context = prepared.context
    method_labels = prepared.chooser.choose(choice)
    values_of = {
        "lead": method_labels.lead,
        "confidence": method_labels.confidence,
        "prediction-set": method_labels.set_size,
    }
    if method_labels.quality is not None:
        steps.evaluate_quality(context, choice.text, method_labels, method_labels.quality)
    _agree(prepared, inputs, choice.text, method_labels)
    stability: dict[str, torch.Tensor] = {}
    if prepared.others:
        stability |= relabeled(prepared.others, choice, method_labels, context.progress)
    if context.options.perturb:
        models = context.tools.encoder(context.selection.source), context.tools.network(context.selection.target)
        stability |= perturbed(prepared.chooser, choice, method_labels, *models, context.progress)
    info = scoring.method(choice.method).info
    unmoved = {name for name in stability if info.ignores_images or (info.needs_correlation and name in _OF_EXAMPLES)}
    stability |= {metric: torch.full_like(stability[metric], torch.nan) for metric in unmoved}
    note = "the method looks at all images, not at its examples alone" if info.needs_correlation else None
    for metric, values in (values_of | stability).items():
        reason = note if metric in unmoved or metric == "confidence" else None
        context.value_table.add(choice.text, metric, values, method_labels.labels, reason)
    return method_labels


def _given(prepared: PreparedEvaluation, inputs: EvaluationInputs, choice: GivenChoice) -> GivenMethodLabels:
    """Return labels made elsewhere; add their agreement with the truth."""
    context = prepared.context
    method_labels = choice.of_neurons(context.selection.neurons.tolist())
    context.value_table.explain(choice.text, method_labels.reasons)
    _agree(prepared, inputs, choice.text, method_labels)
    return method_labels


def _agree(
    prepared: PreparedEvaluation, inputs: EvaluationInputs, method: str, labels: ChosenLabels | GivenMethodLabels
) -> None:
    if inputs.truth is not None:
        concepts = inputs.word_items or prepared.concepts
        steps.evaluate_agreement(prepared.context, method, labels, inputs.truth, inputs.hierarchy, concepts)


def _texts(inputs: EvaluationInputs) -> list[str]:
    """Return the texts that are no candidates, and that metadata may say something about."""
    truth = () if inputs.truth is None else inputs.truth.accepted.values()
    given = (own for choice in inputs.given.values() for own in choice.given.texts.values())
    return [text for texts in truth for text in texts] + [text for own in given for text, _ in own]
