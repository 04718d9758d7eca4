"""Neurons to labels: examples, candidates and scoring brought together, and the answers kept in the store.

A label is kept under the hash of everything it depends on, so asking again reads it and asking otherwise never does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from csp_index import catalog, schema, scoring
from csp_index.candidates import CandidateTexts
from csp_index.catalog import EncoderInfo, LayerInfo
from csp_index.errors import LabelError
from csp_index.examples import Examples, gather_examples
from csp_index.records import ExampleOptions, ExamplePair, Label, LabelScore, LabelState, NeuronKey, ScoringOptions
from csp_index.runs import record_run, settings_hash
from csp_index.scoring import Evidence, MethodRow
from csp_index.statistics import rank_keys
from csp_index.store import Store

KEPT = 20  # candidates stored with each neuron, or more where more are asked for
_NOTES = {
    "dead": "never fires above the floor on the indexed images",
    "no-contrast": "no image activates it less than the threshold, and this method needs a contrast",
}


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """What is asked of neurons: the method, its options, and how many candidates to return."""

    method: str = "csp"
    examples: ExampleOptions = field(default_factory=ExampleOptions)
    scoring: ScoringOptions = field(default_factory=ScoringOptions)
    top: int = 5

    def __post_init__(self) -> None:
        scoring.method(self.method)
        if self.top < 1:
            raise LabelError(f"top is {self.top}: expected at least 1")


@dataclass(frozen=True, slots=True)
class Subject:
    """The neurons in question, and the encoder that judges them."""

    source: EncoderInfo
    target: LayerInfo
    neurons: np.ndarray  # sorted, distinct

    def key(self, neuron: int) -> NeuronKey:
        """Return the address of one of the neurons."""
        return NeuronKey(self.target.key.model, self.target.key.layer, neuron)


def label_neurons(
    store: Store,
    subject: Subject,
    request: LabelRequest,
    candidates: Callable[[], CandidateTexts],
    candidates_key: str,
    *,
    recompute: bool = False,
    keep: bool = True,
    search: bool | None = None,
    device: str = "cpu",
) -> list[Label]:
    """Return one Label a neuron, in neuron order: read where the store has it, computed and kept where not.

    `candidates` is called, under the write lock, only if something must be computed. `keep=False` writes nothing.
    """
    images = int(catalog.neuron_rows(store, subject.target, subject.neurons[:1].tolist())["images"][0].as_py())
    described = _describe(subject, request, candidates_key, images)
    found = {} if recompute else _read(store, subject, settings_hash(described), request)
    missing = np.array([n for n in subject.neurons.tolist() if n not in found], dtype=np.int64)
    if len(missing):
        part = replace(subject, neurons=missing)
        with store.write_lock() if keep else nullcontext():
            texts = candidates()
            if not keep:
                found |= _compute(store, part, request, texts, "", "", search, device).labels(part, request.top)
            else:
                with record_run(store, "label", described, {subject.source.what: subject.source.identity}) as run:
                    made = _compute(store, part, request, texts, run.run_id, run.settings_hash, search, device)
                    _write(store, part, made, run.settings_hash)
                found |= made.labels(part, request.top)
    return [found[neuron] for neuron in subject.neurons.tolist()]


def newest_label(store: Store, subject: Subject, neuron: int, method: str | None = None, top: int = 5) -> Label | None:
    """Return the label the newest run gave a neuron, by one method or any, or None where there is none."""
    where = f"{_layer_filter(subject.target)} AND neuron = {neuron}"
    rows = store.read(schema.LABELS, where=where + (f" AND method = {catalog.sql_text(method)}" if method else ""))
    if rows.num_rows == 0:
        return None
    run = catalog.sql_text(max(rows["run_id"].to_pylist()))
    rows = store.read(schema.LABELS, where=f"{where} AND run_id = {run}")
    pairs = store.read(schema.EXAMPLES, where=f"{where} AND run_id = {run}")
    return _from_rows(subject, rows, pairs, top)[neuron]


def concept_vectors(
    store: Store, subject: Subject, request: LabelRequest, *, search: bool | None = None, device: str = "cpu"
) -> torch.Tensor:
    """Return the concept vectors [M, D] of a method that has them; zero rows for dead neurons."""
    row = scoring.method(request.method)
    if row.vector is None:
        raise LabelError(f"method {request.method} has no concept vector (these have: {', '.join(_with_vector())})")
    evidence = _evidence(
        store, subject, _gather(store, subject, request, row, search, device), torch.zeros(0, subject.source.width)
    )
    return row.vector(evidence, request.scoring)


def stored_vectors(store: Store, subject: Subject, method: str) -> dict[int, np.ndarray]:
    """Return the concept vectors that the newest label runs of a method left behind, by neuron."""
    table = schema.concepts_table(subject.source.name)
    if not store.has(table):
        return {}
    where = f"{_layer_filter(subject.target)} AND method = {catalog.sql_text(method)}"
    rows = store.read(table, ["neuron", "vector"], where)
    vectors = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, subject.source.width)
    return dict(zip(rows["neuron"].to_pylist(), vectors, strict=True))


@dataclass(frozen=True, slots=True)
class Made:
    """Freshly computed labels as the tables that will be stored."""

    label_rows: pa.Table
    example_rows: pa.Table
    vectors: torch.Tensor | None

    def labels(self, subject: Subject, top: int) -> dict[int, Label]:
        """Return the labels by neuron."""
        return _from_rows(subject, self.label_rows, self.example_rows, top)


def _describe(subject: Subject, request: LabelRequest, candidates_key: str, images: int) -> dict[str, object]:
    row = scoring.method(request.method)
    described: dict[str, object] = {
        "encoder": subject.source.name,
        "encoder_identity": subject.source.identity,
        "layer": str(subject.target.key),
        "layer_identity": subject.target.identity,
        "images": images,
        "method": request.method,
        "examples": asdict(request.examples),
        "scoring": asdict(request.scoring),
        "candidates": candidates_key,
        "kept": max(KEPT, request.top),
    }
    if request.method == "clip-dissect" and request.scoring.prior == "neurons":
        described["neurons"] = subject.neurons.tolist()  # its prior runs over them
    if row.needs_contrast is False:
        described["examples"] = {"examples": request.examples.examples, "floor": request.examples.floor}
    return described


def _gather(
    store: Store, subject: Subject, request: LabelRequest, row: MethodRow, search: bool | None, device: str
) -> Examples:
    contrast = row.needs_contrast and not (
        request.method == "csp" and request.scoring.gamma == 0.0 and row.vector is None
    )
    return gather_examples(
        store,
        subject.source,
        subject.target,
        subject.neurons,
        request.examples,
        contrast=contrast,
        search=search,
        device=device,
    )


def _compute(
    store: Store,
    subject: Subject,
    request: LabelRequest,
    texts: CandidateTexts,
    run_id: str,
    hashed: str,
    search: bool | None,
    device: str,
) -> Made:
    row = scoring.method(request.method)
    if texts.embeddings.shape[1] != subject.source.width:
        raise LabelError(
            f"text embeddings have {texts.embeddings.shape[1]} dimensions, the index's encoder {subject.source.width}: "
            "expected embeddings of the same encoder"
        )
    examples = _gather(store, subject, request, row, search, device)
    vectors, empty = texts.embeddings, texts.empty
    if request.scoring.renormalise_text:
        vectors = torch.nn.functional.normalize(vectors, dim=1)
        empty = None if empty is None else torch.nn.functional.normalize(empty, dim=0)
    evidence = replace(_evidence(store, subject, examples, vectors, row.background(request.scoring)), empty_text=empty)
    scored = scoring.score(request.method, evidence, request.scoring)
    states = np.where(
        examples.dead, "dead", np.where(examples.without_contrast & row.needs_contrast, "no-contrast", "labelled")
    )
    label_rows = _label_rows(subject, request, examples, scored.scores, states, texts.texts, run_id, hashed)
    return Made(label_rows, _example_rows(subject, request, examples, run_id), scored.vectors)


def _evidence(
    store: Store, subject: Subject, examples: Examples, texts: torch.Tensor, scale: float | None = None
) -> Evidence:
    """Read the embeddings that the examples name, and what the method needs to know of the whole dataset."""
    ids = torch.cat([examples.activating.flatten(), examples.contrastive.flatten()])
    used = ids[ids >= 0].unique()
    vectors = catalog.embeddings_of(store, subject.source, used.numpy())

    def places(chosen: torch.Tensor) -> torch.Tensor:
        return torch.searchsorted(used, chosen.clamp(min=0)).masked_fill(chosen < 0, -1)

    total = torch.zeros(subject.source.width, dtype=torch.float64)
    share = torch.zeros(len(texts), dtype=torch.float64)
    for tile in catalog.embedding_tiles(
        store, subject.source, catalog.covered(store, subject.source.what, examples.images)
    ):
        total += tile.sum(0, dtype=torch.float64)
        if scale is not None:
            share += scoring.label_share(tile, texts, scale)
    return Evidence(
        vectors if len(vectors) else torch.zeros(1, subject.source.width),
        places(examples.activating),
        examples.activations,
        places(examples.contrastive),
        texts,
        (total / examples.images).float(),
        None if scale is None else share / examples.images,
    )


def _label_rows(
    subject: Subject,
    request: LabelRequest,
    examples: Examples,
    scores: torch.Tensor,
    states: np.ndarray,
    texts: Sequence[str],
    run_id: str,
    hashed: str,
) -> pa.Table:
    """Return the rows of the `labels` table: the best candidates of labelled neurons, one bare row for the others."""
    kept = min(max(KEPT, request.top), len(texts))
    best = torch.cat([_best(part, kept) for part in scores.split(256)]).numpy()
    labelled = states == "labelled"
    counts = np.where(labelled, kept, 1)
    owner = np.repeat(np.arange(len(states)), counts)
    rank = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = best[owner, rank]
    bare = ~labelled[owner]
    fired = (examples.activating >= 0).sum(1).numpy()
    notes = [_note(state, int(count), request) for state, count in zip(states, fired, strict=True)]
    size = len(owner)
    columns = {
        "run_id": pa.array([run_id] * size),
        "settings_hash": pa.array([hashed] * size),
        "model": pa.array([subject.target.key.model] * size),
        "layer": pa.array([subject.target.key.layer] * size),
        "neuron": pa.array(subject.neurons[owner].astype(np.int32)),
        "method": pa.array([request.method] * size),
        "state": pa.array(states[owner].tolist()),
        "rank": pa.array(np.where(bare, -1, rank).astype(np.int32)),
        "text": pc.if_else(
            pa.array(bare), pa.scalar(None, pa.string()), pa.array(texts, pa.string()).take(pa.array(place))
        ),
        "score": pa.array(scores.numpy()[owner, place].astype(np.float64), mask=bare),
        "note": pa.array(notes).take(pa.array(owner)),
    }
    return pa.table(columns, schema=schema.table_schema(schema.LABELS))


def _best(scores: torch.Tensor, kept: int) -> torch.Tensor:
    """Return the places of the best candidates [M, kept]; equal scores in the order of the vocabulary."""
    keys = rank_keys(scores, torch.arange(scores.shape[1]))
    return keys.topk(kept, dim=1).indices


def _note(state: str, fired: int, request: LabelRequest) -> str:
    if state in _NOTES:
        return _NOTES[state]
    asked = request.examples.examples
    return f"{fired} activating images, {asked} asked for" if fired < asked else ""


def _example_rows(subject: Subject, request: LabelRequest, examples: Examples, run_id: str) -> pa.Table:
    """Return the rows of the `examples` table: one an (activating, contrastive) pair."""
    neuron, rank, neighbour = (
        (examples.activating >= 0)[..., None].expand(examples.contrastive.shape).nonzero(as_tuple=True)
    )
    chosen = (examples.contrastive[neuron, rank, neighbour] >= 0) | (neighbour == 0)
    neuron, rank, neighbour = neuron[chosen], rank[chosen], neighbour[chosen]
    contrast = examples.contrastive[neuron, rank, neighbour]
    absent = (contrast < 0).numpy()
    size = len(neuron)

    def paired(values: torch.Tensor) -> pa.Array:
        return pa.array(values[neuron, rank, neighbour].numpy(), mask=absent)

    columns = {
        "run_id": pa.array([run_id] * size),
        "model": pa.array([subject.target.key.model] * size),
        "layer": pa.array([subject.target.key.layer] * size),
        "neuron": pa.array(examples.neurons[neuron].numpy().astype(np.int32)),
        "kind": pa.array([request.examples.contrast] * size),
        "rank": pa.array(rank.numpy().astype(np.int32)),
        "neighbour": pa.array(neighbour.numpy().astype(np.int32)),
        "image_id": pa.array(examples.activating[neuron, rank].numpy()),
        "activation": pa.array(examples.activations[neuron, rank].numpy()),
        "contrast_id": pa.array(contrast.numpy(), mask=absent),
        "contrast_activation": paired(examples.contrast_activations),
        "similarity": paired(examples.similarities),
        "threshold": pa.array(examples.thresholds[neuron].numpy()),
        "encoder": pa.array([subject.source.name] * size),
    }
    return pa.table(columns, schema=schema.table_schema(schema.EXAMPLES))


def _write(store: Store, subject: Subject, made: Made, hashed: str) -> None:
    """Store labels and what they rest on; the label rows come last, so a label that can be read is whole."""
    names = ",".join(map(str, subject.neurons.tolist()))
    same = f"settings_hash = {catalog.sql_text(hashed)} AND neuron IN ({names})"
    store.append(schema.EXAMPLES, made.example_rows)
    if made.vectors is not None:
        table = schema.concepts_table(subject.source.name)
        store.delete(table, same)
        rows = made.label_rows.filter(pc.less_equal(made.label_rows["rank"], 0))
        values = pa.FixedSizeListArray.from_arrays(pa.array(made.vectors.reshape(-1).numpy()), subject.source.width)
        columns = [rows[name] for name in ("run_id", "settings_hash", "model", "layer", "neuron", "method")]
        store.append(table, pa.table([*columns, values], schema=schema.concepts_schema(subject.source.width)))
    store.delete(schema.LABELS, same)
    store.append(schema.LABELS, made.label_rows)


def _read(store: Store, subject: Subject, hashed: str, request: LabelRequest) -> dict[int, Label]:
    where = f"settings_hash = {catalog.sql_text(hashed)} AND {_layer_filter(subject.target)}"
    if len(subject.neurons) < subject.target.neurons:
        where += f" AND neuron IN ({','.join(map(str, subject.neurons.tolist()))})"
    label_rows = store.read(schema.LABELS, where=where)
    if label_rows.num_rows == 0:
        return {}
    runs = ",".join(catalog.sql_text(run) for run in label_rows["run_id"].unique().to_pylist())
    neurons = ",".join(map(str, label_rows["neuron"].unique().to_pylist()))
    example_rows = store.read(schema.EXAMPLES, where=f"run_id IN ({runs}) AND neighbour = 0 AND neuron IN ({neurons})")
    return _from_rows(subject, label_rows, example_rows, request.top)


def _from_rows(subject: Subject, label_rows: pa.Table, example_rows: pa.Table, top: int) -> dict[int, Label]:
    pairs: dict[tuple[str, int], list[ExamplePair]] = {}
    columns = ["run_id", "neuron", "rank", "image_id", "activation", "contrast_id", "contrast_activation", "similarity"]
    nearest = example_rows.filter(pc.equal(example_rows["neighbour"], 0)).select(columns)
    for run_id, neuron, *pair in zip(*(column.to_pylist() for column in nearest.columns), strict=True):
        pairs.setdefault((run_id, neuron), []).append(ExamplePair(*pair))
    scores: dict[int, list[LabelScore]] = {}
    heads: dict[int, tuple[str, str, LabelState, str]] = {}
    columns = ["neuron", "rank", "text", "score", "run_id", "method", "state", "note"]
    for neuron, rank, text, score, *head in zip(*(label_rows[name].to_pylist() for name in columns), strict=True):
        heads[neuron] = tuple(head)
        if 0 <= rank < top:
            scores.setdefault(neuron, []).append(LabelScore(text, score))
    return {
        neuron: Label(
            subject.key(neuron),
            method,
            state,
            tuple(scores.get(neuron, ())),
            tuple(pairs.get((run_id, neuron), ())),
            note,
            run_id,
        )
        for neuron, (run_id, method, state, note) in heads.items()
    }


def _layer_filter(target: LayerInfo) -> str:
    return f"model = {catalog.sql_text(target.key.model)} AND layer = {catalog.sql_text(target.key.layer)}"


def _with_vector() -> list[str]:
    return [name for name, row in scoring.METHODS.items() if row.vector]
