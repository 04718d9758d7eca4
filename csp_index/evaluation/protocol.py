"""The evaluation itself: choose labels on one part of the images, judge them on another, keep every value.

Values are kept under the hash of all they depend on, method by method: an evaluation asked again is read, and one with
a further method computes that method alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import torch

from csp_index import catalog, schema
from csp_index.catalog import EncoderInfo
from csp_index.errors import EvaluationError
from csp_index.evaluation import families
from csp_index.evaluation.choosing import Chooser, Chosen, perturbed, relabelled
from csp_index.evaluation.families import Court, Tell, Tools
from csp_index.evaluation.generation import ImageGenerator, load_generator
from csp_index.evaluation.hierarchy import Hierarchy, load_hierarchy
from csp_index.evaluation.judging import FITTED, set_up
from csp_index.evaluation.ledger import Ledger
from csp_index.evaluation.options import EvaluationOptions
from csp_index.evaluation.records import VALUES, Evaluation
from csp_index.evaluation.split import Split, draw_split, keep_split, read_split, thinned
from csp_index.evaluation.truth import Truth, read_truth
from csp_index.examples import gather_examples
from csp_index.labels import make_request
from csp_index.records import ExampleOptions
from csp_index.runs import record_run, settings_hash
from csp_index.store import Store
from csp_index.subjects import Subject, draw_pool

_LOOKED_AT = 10_000  # images whose metadata tells which columns there are


@dataclass(frozen=True, slots=True)
class Docket:
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
    tell: Tell,
    *,
    recompute: bool = False,
    device: str = "cpu",
) -> Evaluation:
    """Return how faithful the methods' labels of a subject's neurons are; values that are kept are read.

    Errors: EvaluationError, in one line, before anything is written.
    """
    docket = _read(store, subject, options, device)
    described = _describe(subject, options, docket, tools)
    hashed = settings_hash(described)
    where = f"settings_hash = {catalog.sql_text(hashed)} AND {catalog.layer_filter(subject.target)}"
    held = store.read(schema.EVALUATIONS, where=where)
    wanted = {choice.text: choice for choice in options.methods}
    done = set() if recompute else set(held["method"].unique().to_pylist())
    missing = [choice for text, choice in wanted.items() if text not in done]
    if missing or "" not in done:
        with store.write_lock():
            keep_split(store, docket.split)
            models = {subject.source.name: subject.source.identity, str(subject.target.key): subject.target.identity}
            asked = {**described, "methods": [choice.text for choice in missing]}
            with record_run(store, "evaluate", asked, models, options.seed) as run:
                found = _compute(store, subject, replace(options, methods=tuple(missing)), docket, tools, tell, device)
                names = ",".join(catalog.sql_text(text) for text in ["", *(choice.text for choice in missing)])
                store.delete(schema.EVALUATIONS, f"{where} AND method IN ({names})")
                size = found.num_rows
                rows = found.add_column(0, "settings_hash", pa.array([hashed] * size))
                rows = rows.add_column(0, "run_id", pa.array([run.run_id] * size))
                store.append(schema.EVALUATIONS, rows.cast(schema.table_schema(schema.EVALUATIONS)))
        held = store.read(schema.EVALUATIONS, where=where)
    run_id = max(held["run_id"].to_pylist())
    chosen = held.filter(pc.is_in(held["method"], pa.array(["", *wanted])))
    settings = {**described, "methods": list(wanted), "split": docket.split.as_json()}
    return Evaluation(chosen.select(VALUES.names), settings, run_id, dict(docket.skipped))


def _read(store: Store, subject: Subject, options: EvaluationOptions, device: str) -> Docket:
    images = subject.images(store)
    if options.choose_on is not None and options.judge_on is not None:
        split = read_split(store, images, options.choose_on, options.judge_on)
    else:
        split = draw_split(images, held_out=options.held_out, seed=options.seed)
    for choice in options.methods:
        make_request(choice.method, subject.source, 1, choice.options)
    judge = subject.source if options.judge is None else catalog.encoder(store, options.judge)
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
    return Docket(split, judge, truth, hierarchy, generator, skipped)


def _check_columns(store: Store, columns: Sequence[str]) -> None:
    """Refuse a metadata column that none of the first images has."""
    rows = store.read(schema.IMAGES, ["metadata"], where=f"image_id < {_LOOKED_AT}")["metadata"].to_pylist()
    known = {name for row in rows if row for name in json.loads(row)}
    for column in columns:
        if column not in known:
            has = ", ".join(sorted(known)) or "none: the images were indexed without metadata"
            raise EvaluationError(f"no image has the metadata column {column!r} (has: {has})")


def _describe(subject: Subject, options: EvaluationOptions, docket: Docket, tools: Tools) -> dict[str, object]:
    """Return all that the values of one method depend on."""
    given = asdict(replace(options, methods=options.methods[:1]))
    given.pop("methods")
    given.pop("drawings")
    files = {name: _digest(path) for name, path in (("truth", options.truth), ("hierarchy", options.hierarchy)) if path}
    return {
        **{name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
        "files": files,
        "layer": str(subject.target.key),
        "layer_identity": subject.target.identity,
        "neurons": len(subject.neurons),
        "neurons_hash": hashlib.sha256(json.dumps(subject.neurons.tolist()).encode()).hexdigest()[:16],
        "encoder": subject.source.name,
        "encoder_identity": subject.source.identity,
        "judge": docket.judge.name,
        "judge_identity": docket.judge.identity,
        "same_encoder": docket.judge == subject.source,
        "split_key": docket.split.key,
        "generator_identity": None if docket.generator is None else docket.generator.identity,
        "candidates": tools.candidates_key,
        "detection": "calibrated text probabilities" if options.concepts is None else "metadata columns",
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()[:16]


def _compute(
    store: Store,
    subject: Subject,
    options: EvaluationOptions,
    docket: Docket,
    tools: Tools,
    tell: Tell,
    device: str,
) -> pa.Table:
    """Return the values of the given methods, and those of the neurons themselves."""
    judging = thinned(docket.split.judging, options.most_judging, options.seed)
    pool = draw_pool(store, subject.target, subject.neurons, judging)
    low, high = (torch.from_numpy(pool.rows[name].to_numpy().copy()) for name in ("min", "max"))
    kinds = [docket.truth.kind(neuron) if docket.truth else "" for neuron in subject.neurons.tolist()]
    ledger = Ledger(subject, kinds, low == high)
    court = Court(store, replace(subject, pool=pool), tools.candidates(), options, tools, ledger, tell)
    labels = _choose(court, subject, docket, device)
    examples = gather_examples(store, court.subject, ExampleOptions(), device=device)
    families.judge_neurons(court, examples)
    if not labels:
        return ledger.table()
    fitting = thinned(docket.split.choosing, FITTED, options.seed)
    bench = set_up(store, docket.judge, subject.target, subject.neurons, fitting, judging, options.alpha)
    words = families.words_of(court, docket.judge, labels, bench)
    simulation = families.judge_activations(court, bench, words, labels)
    families.judge_contrast(court, bench, words, labels, examples)
    families.judge_consistency(court, bench, words, labels)
    if docket.hierarchy is not None:
        families.judge_hierarchy(court, bench, docket.hierarchy, labels, simulation)
    if docket.generator is not None:
        families.judge_generated(court, docket.generator, labels)
    return ledger.table()


def _choose(court: Court, subject: Subject, docket: Docket, device: str) -> dict[str, list[str | None]]:
    """Choose every method's labels on the choosing images; add what the choice alone tells."""
    chooser = Chooser(court.store, subject, court.candidates, device)
    on_choosing = chooser.on(docket.split.choosing)
    chosen: dict[str, Chosen] = {}
    for done, choice in enumerate(court.options.methods):
        court.tell(done, len(court.options.methods), "methods")
        found = on_choosing.choose(choice)
        court.ledger.add(choice.text, "lead", found.lead, found.labels)
        court.ledger.add(choice.text, "confidence", found.confidence, found.labels)
        if docket.truth is not None:
            families.judge_agreement(court, choice.text, found, docket.truth, docket.hierarchy)
        chosen[choice.text] = replace(found, scores=torch.zeros(0))  # scores of one method at a time fill the memory
    methods = court.options.methods
    steady = [relabelled(chooser, docket.split, methods, chosen, court.options.resamples, court.tell)]
    if court.options.perturb:
        models = court.tools.encoder(subject.source), court.tools.network(subject.target)
        steady.append(perturbed(on_choosing, methods, chosen, *models, court.tell))
    for method, metric, values in chain.from_iterable(steady):
        court.ledger.add(method, metric, values, chosen[method].labels)
    return {method: found.labels for method, found in chosen.items()}
