"""Candidates that models named for single neurons, read from the store and mixed with a vocabulary.

Knows nothing about the models: it reads the tables `answers` and `candidates`. What is mixed is always the whole
layer's, whichever of its neurons are labeled, so that a label does not depend on the others in the run.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from csp_index.errors import LabelError, SettingError
from csp_index.labelling.candidates import CandidateTexts, Ownership, embed_proposed, vocabulary_texts
from csp_index.labelling.texts.candidate_names import (
    KINDS,
    Candidates,
    Mix,
    TextArrays,
    TextSpace,
    named_vocabulary,
    template_key,
    texts_key,
)
from csp_index.labelling.vocabularies import Vocabulary, clean_text
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store

_log = logging.getLogger(__name__)
_CHECKED = ("vlm", "captioner")  # the kinds that may be invented
_ANSWER = ("run_id", "settings_hash", "neuron", "kind", "proposer")


@dataclass(frozen=True, slots=True)
class Proposals:
    """What was named for a layer's neurons: distinct texts, and which neuron [P] was given which of them, by what kind.

    Texts that differ only in case, spacing or Unicode form are one, the first spelling wins. Pairs stand in the order
    of neuron, kind, proposer and rank; a pair named by several kinds stands there once for each.
    """

    texts: tuple[str, ...]
    neurons: np.ndarray
    places: np.ndarray
    kinds: tuple[str, ...]

    @property
    def key(self) -> str:
        """A hash of all texts and of who they belong to."""
        content = json.dumps([self.texts, self.neurons.tolist(), self.places.tolist()], ensure_ascii=False)
        named = "+".join(kind for kind in KINDS if kind in self.kinds)
        return f"{named}@{hashlib.sha256(content.encode()).hexdigest()[:12]}"


def stored_kinds(store: Store, target: LayerInfo) -> tuple[str, ...]:
    """Return the kinds that candidates of the layer's neurons are stored of."""
    stored = set(store.read(schema.CANDIDATES, ["kind"], catalog.layer_filter(target))["kind"].unique().to_pylist())
    return tuple(kind for kind in KINDS if kind in stored)


def checked_kinds(store: Store, target: LayerInfo, kinds: str | Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the kinds to hold against a vocabulary: those named, by default vlm and captioner if there are any."""
    if kinds is not None:
        named = Mix.parse(kinds).proposed
        if not named:
            raise SettingError(f"candidates to check are those of models: name one or several of {', '.join(KINDS)}")
        return named
    return tuple(kind for kind in stored_kinds(store, target) if kind in _CHECKED) or _CHECKED[:1]


def read_proposals(store: Store, target: LayerInfo, kinds: Sequence[str], proposers: Sequence[str] = ()) -> Proposals:
    """Return what proposers (default all) of the given kinds named for the layer's neurons.

    Of each proposer the last answer about a neuron counts, even one without candidates, and no earlier one.
    Logged is a warning where they were named before the index grew. Errors: LabelError for a kind of which the layer
    has no candidate.
    """
    names = ",".join(catalog.sql_text(kind) for kind in kinds)
    where = f"{catalog.layer_filter(target)} AND kind IN ({names})"
    if proposers:
        where += f" AND proposer IN ({','.join(catalog.sql_text(name) for name in proposers)})"
    answers = store.read(schema.ANSWERS, _ANSWER, f"{where} AND state != 'failed'")
    rows = store.read(schema.CANDIDATES, [*_ANSWER, "rank", "text"], where)
    rows = rows.join(_newest(answers), [*_ANSWER], join_type="left semi")
    missing = [kind for kind in kinds if not pc.any(pc.equal(rows["kind"], kind)).as_py()]
    if missing:
        proposed_by = f" from {', '.join(proposers)}" if proposers else ""
        states = store.read(schema.ANSWERS, ["state"], f"{where} AND kind = {catalog.sql_text(missing[0])}")["state"]
        fruitless = f"; {len(states)} answers hold none" if len(states) else ""
        raise LabelError(
            f"layer {target.key} has no candidates of kind {missing[0]}{proposed_by}{fruitless}: "
            f"run `csp-index candidates {store.uri} --layer {target.key}` first"
        )
    _warn_of_early(store, target, rows)
    order = pc.index_in(rows["kind"], pa.array(KINDS))
    columns = ("neuron", "order", "proposer", "rank")
    return _proposals(rows.append_column("order", order).sort_by([(name, "ascending") for name in columns]))


def mixed_candidates(
    space: TextSpace, target: LayerInfo, mix: Mix, candidates: Candidates | None
) -> tuple[Callable[[], CandidateTexts], str]:
    """Return a function that loads a layer's candidates, some of them of models, and the key that names them.

    `candidates` is the vocabulary, None the one used last. Errors: SettingError for a vocabulary outside the mix,
    LabelError for arrays made elsewhere in a mix, and as `read_proposals`. A vocabulary alone needs `plain_candidates`.
    """
    if isinstance(candidates, CandidateTexts | TextArrays):
        raise LabelError("text embeddings made elsewhere do not mix with candidates of models: name a vocabulary")
    if candidates is not None and not mix.with_vocabulary:
        raise SettingError("a vocabulary is named and is not among the candidates: add vocabulary to them")
    vocabulary = named_vocabulary(space.store, candidates) if mix.with_vocabulary else None
    proposals = read_proposals(space.store, target, mix.proposed)
    head = template_key(space.template_set) if vocabulary is None else texts_key(vocabulary, space.template_set)
    key = f"{head} + {proposals.key}" + " pooled" * mix.pooled

    def texts() -> CandidateTexts:
        union = joined(space, vocabulary, proposals, key)
        return replace(union, own=None) if mix.pooled else union

    return texts, key


def joined(
    space: TextSpace, vocabulary: Vocabulary | None, proposals: Proposals, key: str = "unnamed"
) -> CandidateTexts:
    """Return the vocabulary's labels, which everybody shares, and behind them the texts that are single neurons'.

    A text that the vocabulary has, too, is the vocabulary's.
    """
    base = None if vocabulary is None else vocabulary_texts(space, vocabulary)
    shared = () if base is None else base.texts
    known = {clean_text(text).casefold(): place for place, text in enumerate(shared)}
    own = [text for text in proposals.texts if text.casefold() not in known]
    places = known | {text.casefold(): len(shared) + place for place, text in enumerate(own)}
    vectors = embed_proposed(space, own if base is not None else [*own, ""])
    union = torch.tensor([places[text.casefold()] for text in proposals.texts], dtype=torch.int64)
    return CandidateTexts(
        (*shared, *own),
        vectors[:-1] if base is None else torch.cat([base.embeddings, vectors]),
        key,
        vectors[-1] if base is None else base.empty,
        Ownership(len(shared), torch.from_numpy(proposals.neurons), union[torch.from_numpy(proposals.places)]),
    )


def _warn_of_early(store: Store, target: LayerInfo, rows: pa.Table) -> None:
    """Log for how many neurons the candidates were named when the layer had seen fewer images than it has now."""
    images = int(catalog.neuron_rows(store, target, [0])["images"][0].as_py())
    named = ",".join(catalog.sql_text(run) for run in rows["run_id"].unique().to_pylist())
    runs = store.read(schema.RUNS, ["run_id", "settings"], f"run_id IN ({named})").to_pylist()
    seen = {run["run_id"]: read_object(run["settings"], schema.RUNS, "settings").get("images", images) for run in runs}
    early = [run for run, count in seen.items() if isinstance(count, int) and count < images]
    neurons = rows.filter(pc.is_in(rows["run_id"], pa.array(early, pa.string())))["neuron"].unique()
    if len(neurons):
        _log.warning(
            "candidates of %d neurons of %s were named when the index held fewer than its %d images: "
            "`csp-index candidates` asks again",
            len(neurons),
            target.key,
            images,
        )


def _newest(answers: pa.Table) -> pa.Table:
    """Return of each neuron the answer that each proposer gave it last, or that was last asked for again."""
    whose = ["kind", "proposer", "neuron"]
    last = answers.group_by(whose).aggregate([("run_id", "max")]).rename_columns({"run_id_max": "run_id"})
    return answers.join(last, [*whose, "run_id"], join_type="left semi")


def _proposals(rows: pa.Table) -> Proposals:
    """Return sorted rows of the table `candidates` as texts and pairs."""
    texts: dict[str, tuple[int, str]] = {}
    pairs: dict[tuple[int, int, str], None] = {}
    for neuron, kind, text in zip(*(rows[name].to_pylist() for name in ("neuron", "kind", "text")), strict=True):
        clean = clean_text(text)
        if clean:
            place, _ = texts.setdefault(clean.casefold(), (len(texts), clean))
            pairs[neuron, place, kind] = None
    columns = np.array([(neuron, place) for neuron, place, _ in pairs], dtype=np.int64).reshape(-1, 2)
    return Proposals(
        tuple(text for _, text in texts.values()),
        columns[:, 0].copy(),
        columns[:, 1].copy(),
        tuple(kind for _, _, kind in pairs),
    )
