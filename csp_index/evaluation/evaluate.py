"""The evaluation itself: choose labels on one part of the images, judge them on another, keep every value.

Values are kept under the hash of all they depend on, method by method as they are done: an evaluation asked again is
read, one with a further method computes that method alone, one cut off goes on with the method it was at.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from csp_index.contrast.context import Means
from csp_index.contrast.embeddings import release
from csp_index.contrast.examples import Examples, gather_examples
from csp_index.contrast.selection import Subject, draw_pool
from csp_index.errors import EvaluationError
from csp_index.evaluation import steps
from csp_index.evaluation.choose_labels import Chooser, ChosenLabels, others, perturbed, relabelled
from csp_index.evaluation.contrast_metrics import add_quality
from csp_index.evaluation.evaluation import VALUES, Evaluation
from csp_index.evaluation.ground_truth import Truth, read_truth
from csp_index.evaluation.hierarchy import Hierarchy, load_hierarchy
from csp_index.evaluation.judge_labels import FITTED, JudgingImages, read_judging_images
from csp_index.evaluation.metadata_concepts import ConceptTable
from csp_index.evaluation.options import EvaluationOptions, MethodChoice
from csp_index.evaluation.split import Split, draw_split, keep_split, read_split, thinned
from csp_index.evaluation.steps import EvaluationContext, Tools
from csp_index.evaluation.value_table import ValueTable
from csp_index.images.sources import open_source
from csp_index.labelling import scoring
from csp_index.labelling.request import check_request, make_request
from csp_index.models.image_generators import ImageGenerator, load_generator
from csp_index.records import ExampleOptions, Progress
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.tables import Store

_LOOKED_AT = 10_000  # images whose metadata tells which columns there are


@dataclass(frozen=True, slots=True)
class EvaluationInputs:
    """What was read before anything is computed, so that bad input is told at once."""

    split: Split
    judge: EncoderInfo
    truth: Truth | None
    hierarchy: Hierarchy | None
    generator: ImageGenerator | None
    skipped: Mapping[str, str]


def evaluate(
    store: Store,
    subject: Subject,
    options: EvaluationOptions,
    tools: Tools,
    progress: Progress,
    *,
    recompute: bool = False,
    device: str = "cpu",
) -> Evaluation:
    """Return how faithful the methods' labels of a subject's neurons are; values that are kept are read.

    Errors: EvaluationError, in one line, before anything is written.
    """
    inputs = _read(store, subject, options, device)
    described = _describe(subject, options, inputs, tools)
    wanted = {"": None} | {choice.text: choice for choice in options.methods}
    hashes = {
        text: settings_hash(described | _made_by(subject, options, tools, choice)) for text, choice in wanted.items()
    }
    held = {} if recompute else _held(store, subject, hashes)
    missing = {text: choice for text, choice in wanted.items() if text not in held}
    if missing:
        with store.write_lock():
            keep_split(store, inputs.split)
            models = {subject.source.name: subject.source.identity, str(subject.target.key): subject.target.identity}
            asked = {**described, "methods": [text for text in missing if text]}
            with record_run(store, "evaluate", asked, models, options.seed) as run:
                prepared = _open(store, subject, options, inputs, tools, progress, device)
                for done, (text, choice) in enumerate(missing.items()):
                    progress(done, len(missing), "methods")
                    _keep(store, subject, hashes[text], run.run_id, text, _values(prepared, inputs, choice))
                progress(len(missing), len(missing), "methods")
        held = _held(store, subject, hashes)
    rows = pa.concat_tables([held[text] for text in wanted])
    runs = sorted(set(rows["run_id"].to_pylist()))
    settings = {**described, "methods": [text for text in wanted if text], "split": inputs.split.as_json()}
    return Evaluation(rows.select(VALUES.names), {**settings, "runs": runs}, runs[-1], dict(inputs.skipped))


def _made_by(
    subject: Subject, options: EvaluationOptions, tools: Tools, choice: MethodChoice | None
) -> dict[str, object]:
    """Return what one method's values depend on through contrastive images that are made."""
    if choice is None or tools.depends is None or not scoring.method(choice.method).info.needs_contrast:
        return {}
    request = make_request(choice.method, subject.source, 1, {**_defaults(options), **choice.options})
    return dict(tools.depends(request.examples))


def _held(store: Store, subject: Subject, hashes: Mapping[str, str]) -> dict[str, pa.Table]:
    """Return the values kept of each method under its settings hash: those of the newest run that judged it."""
    found = {}
    for hashed in dict.fromkeys(hashes.values()):
        rows = store.read(schema.EVALUATIONS, where=_where(subject, hashed))
        for text in rows["method"].unique().to_pylist():
            if hashes.get(text) == hashed:
                part = rows.filter(pc.equal(rows["method"], text))
                found[text] = part.filter(pc.equal(part["run_id"], pc.max(part["run_id"])))
    return found


def _keep(store: Store, subject: Subject, hashed: str, run_id: str, method: str, values: pa.Table) -> None:
    """Store a method's values in one commit, then delete those it had before."""
    size = values.num_rows
    rows = values.add_column(0, "settings_hash", pa.array([hashed] * size))
    rows = rows.add_column(0, "run_id", pa.array([run_id] * size))
    store.append(schema.EVALUATIONS, rows.cast(schema.table_schema(schema.EVALUATIONS)))
    older = f"method = {catalog.sql_text(method)} AND run_id != {catalog.sql_text(run_id)}"
    store.delete(schema.EVALUATIONS, f"{_where(subject, hashed)} AND {older}")


def _where(subject: Subject, hashed: str) -> str:
    return f"settings_hash = {catalog.sql_text(hashed)} AND {catalog.layer_filter(subject.target)}"


def _read(store: Store, subject: Subject, options: EvaluationOptions, device: str) -> EvaluationInputs:
    images = subject.images(store)
    if options.choose_on is not None and options.judge_on is not None:
        split = read_split(store, images, options.choose_on, options.judge_on)
    else:
        split = draw_split(images, held_out=options.held_out, seed=options.seed)
    for choice in options.methods:
        request = make_request(choice.method, subject.source, 1, {**_defaults(options), **choice.options})
        check_request(store, subject, request)
    judge = subject.source if options.judge is None else catalog.encoder(store, options.judge)
    if judge != subject.source and judge.identity.get("library") == "arrays":
        raise EvaluationError(
            f"encoder {judge.name} came as arrays and cannot read the labels it is to judge: "
            "name one that was indexed with its model"
        )
    truth = None
    skipped = {}
    if options.truth is not None:
        truth = read_truth(options.truth, subject.target.key, subject.target.neurons)
    else:
        skipped["agreement"] = "no truth is given (--truth labels.csv, or class names of output neurons)"
    if options.concepts:
        _check_columns(store, options.concepts)
    if options.concepts is None:
        skipped["detection by metadata"] = "no metadata columns are named (--concepts): calibrated text probabilities"
    hierarchy = None if options.hierarchy is None else load_hierarchy(options.hierarchy)
    if hierarchy is None:
        skipped["hierarchy"] = "no hierarchy is given (--hierarchy)"
    generator = None
    if options.generator is None:
        skipped["generation"] = "no image generator is given (--generator)"
    elif subject.target.network == "arrays":
        raise EvaluationError(
            f"layer {subject.target.key} came as arrays, so generated images cannot be run through its network: "
            "leave the generator out"
        )
    else:
        generator = load_generator(options.generator, device=device, cache=options.drawings)
    if options.resamples == 0:
        skipped["resampled images"] = "no relabelling is asked for (--resamples)"
    if not options.perturb:
        skipped["perturbed images"] = "not asked for (--perturb)"
    elif "arrays" in (subject.target.network, subject.source.identity.get("library")):
        raise EvaluationError(
            f"layer {subject.target.key} or its encoder came as arrays, so perturbed images cannot be run "
            "through them: leave perturbation out"
        )
    return EvaluationInputs(split, judge, truth, hierarchy, generator, skipped)


def _check_columns(store: Store, columns: Sequence[str]) -> None:
    """Refuse a metadata column that none of the first images has."""
    rows = store.read(schema.IMAGES, ["metadata"], where=f"image_id < {_LOOKED_AT}")["metadata"].to_pylist()
    known = {name for row in rows if row for name in json.loads(row)}
    for column in columns:
        if column not in known:
            has = ", ".join(sorted(known)) or "none: the images were indexed without metadata"
            raise EvaluationError(f"no image has the metadata column {column!r} (has: {has})")


def _describe(
    subject: Subject, options: EvaluationOptions, inputs: EvaluationInputs, tools: Tools
) -> dict[str, object]:
    """Return all that the values of one method depend on."""
    given = asdict(replace(options, methods=options.methods[:1]))
    for name in ("methods", "drawings", "truth", "hierarchy"):  # what the files say counts, not where they lie
        given.pop(name)
    files = {name: _digest(path) for name, path in (("truth", options.truth), ("hierarchy", options.hierarchy)) if path}
    return {
        **given,
        "files": files,
        "controls_key": None if options.controls is None else _listing(options.controls),
        "layer": str(subject.target.key),
        "layer_identity": subject.target.identity,
        "neurons": len(subject.neurons),
        "neurons_hash": hashlib.sha256(json.dumps(subject.neurons.tolist()).encode()).hexdigest()[:16],
        "encoder": subject.source.name,
        "encoder_identity": subject.source.identity,
        "judge": inputs.judge.name,
        "judge_identity": inputs.judge.identity,
        "same_encoder": inputs.judge == subject.source,
        "split_key": inputs.split.key,
        "generator_identity": None if inputs.generator is None else inputs.generator.identity,
        "candidates": tools.candidates_key,
        "templates": tools.templates_key,
        "detection": "calibrated text probabilities" if options.concepts is None else "metadata columns",
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:16]


def _listing(location: str) -> str:
    """Return a hash of the images at a location: their addresses, sizes and times."""
    uris = [ref.uri for ref in open_source(location).refs()]
    states = [(os.stat(uri).st_size, os.stat(uri).st_mtime_ns) if os.path.exists(uri) else () for uri in uris]
    return hashlib.sha256(json.dumps([uris, states]).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class PreparedEvaluation:
    """What all methods of one evaluation share: the judging images and those that choose, read once."""

    context: EvaluationContext
    judging_images: JudgingImages
    chooser: Chooser  # sees the choosing images
    others: Sequence[tuple[str, Chooser]]  # see other images
    examples: Examples  # of the judging images
    concepts: ConceptTable | None


def _open(
    store: Store,
    subject: Subject,
    options: EvaluationOptions,
    inputs: EvaluationInputs,
    tools: Tools,
    progress: Progress,
    device: str,
) -> PreparedEvaluation:
    judging = thinned(inputs.split.judging, options.most_judging, options.seed)
    pool = draw_pool(store, subject.target, subject.neurons, judging)
    low, high = (torch.from_numpy(pool.rows[name].to_numpy().copy()) for name in ("min", "max"))
    kinds = [inputs.truth.kind(neuron) if inputs.truth else "" for neuron in subject.neurons.tolist()]
    value_table = ValueTable(subject, kinds, low == high)
    context = EvaluationContext(
        store, replace(subject, pool=pool), tools.candidates(), options, tools, value_table, progress
    )
    chooser = Chooser(store, subject, context.candidates, device, _defaults(options), tools.derive)
    fitting = thinned(inputs.split.choosing, FITTED, options.seed)
    return PreparedEvaluation(
        context,
        read_judging_images(store, inputs.judge, subject.target, subject.neurons, fitting, judging, options.alpha),
        chooser.on(inputs.split.choosing),
        others(chooser, inputs.split, options.resamples, progress),
        gather_examples(store, context.subject, ExampleOptions(), means=Means(device)),
        steps.concepts_in(context, len(judging)),
    )


def _values(prepared: PreparedEvaluation, inputs: EvaluationInputs, choice: MethodChoice | None) -> pa.Table:
    """Return the values of one method, or those of the neurons themselves."""
    context, images = prepared.context, prepared.judging_images
    if choice is None:
        steps.evaluate_neurons(context, prepared.examples)
        return context.value_table.take()
    chosen = _choose(prepared, inputs, choice)
    release(context.store)  # what judges has its own copy
    method, labels = choice.text, chosen.labels
    label_texts = steps.label_texts_of(context, labels, images, prepared.concepts)
    simulation = steps.evaluate_activations(context, images, label_texts, method, labels)
    steps.evaluate_contrast(context, images, label_texts, prepared.examples, method, labels)
    steps.evaluate_consistency(context, images, label_texts, method, labels)
    if inputs.hierarchy is not None:
        steps.evaluate_hierarchy(context, images, inputs.hierarchy, method, labels, simulation)
    if inputs.generator is not None:
        steps.evaluate_generated(context, inputs.generator, method, labels)
    return context.value_table.take()


def _choose(prepared: PreparedEvaluation, inputs: EvaluationInputs, choice: MethodChoice) -> ChosenLabels:
    """Choose a method's labels on the choosing images; add what the choice alone tells."""
    context = prepared.context
    chosen = prepared.chooser.choose(choice)
    found = {"lead": chosen.lead, "confidence": chosen.confidence}
    if chosen.quality is not None:
        add_quality(context.value_table, choice.text, chosen.quality, chosen.labels)
    if inputs.truth is not None:
        steps.evaluate_agreement(context, choice.text, chosen, inputs.truth, inputs.hierarchy)
    steady: dict[str, torch.Tensor] = {}
    if prepared.others:
        steady |= relabelled(prepared.others, choice, chosen, context.progress)
    if context.options.perturb:
        models = context.tools.encoder(context.subject.source), context.tools.network(context.subject.target)
        steady |= perturbed(prepared.chooser, choice, chosen, *models, context.progress)
    if scoring.method(choice.method).info.ignores_images:
        steady = {metric: torch.full_like(values, torch.nan) for metric, values in steady.items()}
    for metric, values in (found | steady).items():
        context.value_table.add(choice.text, metric, values, chosen.labels)
    return chosen


def _defaults(options: EvaluationOptions) -> dict[str, object]:
    """Return the label options of every method that does not name its own."""
    return {"seed": options.seed, "logit_scale": options.logit_scale}
