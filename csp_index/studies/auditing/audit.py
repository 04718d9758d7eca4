"""The audit of a layer: what its labels, effects and images' metadata say together, as findings that are stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from csp_index.concurrency import unseen
from csp_index.errors import SettingError, StudyError
from csp_index.evaluation.hierarchy import normal_text
from csp_index.records import Label, Progress
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.tables import Store
from csp_index.store.values.arrays import activations_of
from csp_index.studies.auditing.columns import Factors, read_factors
from csp_index.studies.auditing.evidence import evidence_of
from csp_index.studies.auditing.expected import ExpectedConcepts, unknown_texts
from csp_index.studies.auditing.findings import THRESHOLD, AuditArrays, Finding, inseparable, rank_findings
from csp_index.studies.auditing.gathering import AuditInputs, gather_arrays
from csp_index.studies.auditing.stored_audits import Audit, StoredFinding, stored_audit, write_audit
from csp_index.studies.auditing.wording import refutation, statement
from csp_index.studies.classes.image_classes import OUTPUTS, ImageClasses, classes_described, read_classes

_KEPT = 100  # findings that are stored, at most
_LEAST = 0.02  # score of a finding that is stored
_VERSION = 1  # of the formula: results of another one are computed again
_NAMED = 5  # texts that a note names


@dataclass(frozen=True, slots=True)
class AuditOptions:
    """What a user says about an audit.

    `by` is the column with the images' classes, or `outputs:MODEL/LAYER`; `artefacts` the columns that must not matter,
    by default all others. A finding counts from the score `threshold` on.
    """

    by: str
    expected: ExpectedConcepts
    artefacts: tuple[str, ...] = ()
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise SettingError(f"threshold is {self.threshold}: expected a number from 0 to 1")


class Logit(Protocol):
    """A class among the logits of a network."""

    @property
    def index(self) -> int:
        """Its number among the logits."""

    @property
    def name(self) -> str | None:
        """Its name, None where nothing names it."""


class LogitEffects(Protocol):
    """Effects of m neurons of a layer on C logits: those of `csp-index effects`, or arrays of one's own."""

    @property
    def classes(self) -> Sequence[Logit]:
        """The logits [C]."""

    @property
    def neurons(self) -> np.ndarray:
        """The neurons [m], sorted."""

    @property
    def effects(self) -> np.ndarray:
        """What each neuron adds to each logit on images of its class, less elsewhere, [m, C]; NaN where not known."""

    @property
    def settings_hash(self) -> str:
        """A hash of all that they depend on."""


@dataclass(frozen=True, slots=True)
class AuditMaterial:
    """What an audit rests on besides the images: labels with and without contrast, one per neuron; effects.

    `embed` returns unit embeddings [T, D] of texts.
    """

    labels: Sequence[Label]
    plain: Sequence[Label]
    effects: LogitEffects
    embed: Callable[[Sequence[str]], np.ndarray]


def audit_layer(
    store: Store,
    target: LayerInfo,
    source: EncoderInfo,
    options: AuditOptions,
    material: AuditMaterial,
    *,
    recompute: bool = False,
    progress: Progress | None = None,
) -> Audit:
    """Return the findings about a layer: read if the index has them, else made and stored.

    Errors: those of `read_classes`; NotFoundError for a column of artefacts that no image has; StudyError where no
    class of the images is one that the effects are about.
    """
    images = int(catalog.neuron_rows(store, target, [0])["images"][0].as_py())
    described = _described(store, target, source, options, material, images)
    hashed = settings_hash(described)
    if not recompute and (stored := stored_audit(store, target.key, hashed)) is not None:
        return stored
    classes = read_classes(store, options.by, images)
    factors = read_factors(store, images, options.by, options.artefacts)
    effects, lacking = aligned_effects(material.effects, classes, target.neurons)
    labels = [label.text for label in (*material.labels, *material.plain)]
    texts = sorted({text for text in labels if text is not None})
    vectors = dict(zip(texts, material.embed(texts), strict=True)) if texts else {}
    least = min(_LEAST, options.threshold)
    inputs = AuditInputs(target, source, classes, factors, effects, material.labels, material.plain, vectors, least)
    arrays = gather_arrays(store, inputs, progress or unseen)
    findings = rank_findings(arrays, options.expected, least)
    unknown = unknown_texts(store, options.expected)
    audit = Audit(
        layer=target.key,
        by=options.by,
        method=material.labels[0].method,
        encoder=source.name,
        threshold=options.threshold,
        expected=options.expected.texts,
        unknown=unknown,
        columns=tuple(dict.fromkeys(column for column, _ in factors.values)),
        notes=tuple(_notes(factors, arrays, classes, lacking, unknown, len(findings))),
        neurons=target.neurons,
        classes=len(classes.names),
        images=images,
        findings=(),
        settings_hash=hashed,
    )
    made = [_stored(store, inputs, options, *one) for one in enumerate(findings[:_KEPT])]
    models = {target.what: target.identity, source.what: source.identity}
    with store.write_lock(), record_run(store, "audit", described, models) as run:
        audit = replace(audit, run_id=run.run_id, findings=tuple(made))
        write_audit(store, audit)
    return audit


def _described(
    store: Store,
    target: LayerInfo,
    source: EncoderInfo,
    options: AuditOptions,
    material: AuditMaterial,
    images: int,
) -> dict[str, object]:
    """Return all that an audit depends on; of labels and effects their content counts, however they came about."""
    said = [
        [label.text, label.method, [(pair.image_id, pair.contrast_id) for pair in label.pairs]]
        for label in (*material.labels, *material.plain)
    ]
    return {
        "layer": str(target.key),
        "layer_identity": target.identity,
        "encoder": source.name,
        "encoder_identity": source.identity,
        "images": images,
        **classes_described(store, options.by),
        **({} if not options.by.startswith(OUTPUTS) else _metadata(store)),
        "expected": list(options.expected.texts),
        "artefacts": list(options.artefacts),
        "threshold": options.threshold,
        "labels": hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16],
        "effects": material.effects.settings_hash,
        "logits": [one.name for one in material.effects.classes],
        "formula": _VERSION,
    }


def _metadata(store: Store) -> Mapping[str, object]:
    from csp_index.store.image_metadata import metadata_state

    return metadata_state(store)


def aligned_effects(effects: LogitEffects, classes: ImageClasses, neurons: int) -> tuple[np.ndarray, list[str]]:
    """Return effects [M, C] on the classes of images, 0 where there are none, and the classes that have none.

    A class is the logit of its name (in the form of `normal_text`), or of its number. StudyError if no class is one.
    """
    places = {normal_text(one.name): place for place, one in enumerate(effects.classes) if one.name}
    numbers = {str(one.index): place for place, one in enumerate(effects.classes)}
    numbers |= {f"output {one.index}": place for place, one in enumerate(effects.classes)}
    found = [places.get(normal_text(name), numbers.get(name)) for name in classes.names]
    if not any(place is not None for place in found):
        logits = ", ".join(str(one) for one in effects.classes[:_NAMED])
        raise StudyError(
            f"no class of the images is a logit of the network: classes are {', '.join(classes.names[:_NAMED])}, "
            f"logits {logits}; name a column with the logits' names or numbers (--by)"
        )
    aligned = np.zeros((neurons, len(classes.names)))
    for at, place in enumerate(found):
        if place is not None:
            aligned[effects.neurons, at] = np.nan_to_num(effects.effects[:, place])
    return aligned, [name for name, place in zip(classes.names, found, strict=True) if place is None]


def _notes(
    factors: Factors,
    arrays: AuditArrays,
    classes: ImageClasses,
    lacking: Sequence[str],
    unknown: Sequence[str],
    findings: int,
) -> list[str]:
    """Return what an audit did not look at, and why; one sentence each."""
    notes = [f"column {name} is not looked at: {why}" for name, why in factors.left_out.items()]
    if not factors.values:
        notes.append("no column of the metadata is looked at, so that artefacts are found by labels alone")
    for column, value, name in inseparable(arrays):
        notes.append(
            f"{column} {value!r} and class {name!r} are on the same images: nothing tells them apart, add images that "
            "show one of them alone"
        )
    if lacking:
        notes.append(f"no logit is called like {_listed(lacking)}: these classes are not looked at")
    if unknown:
        notes.append(f"no vocabulary has {_listed(unknown)}, so that no label can be one of these expected concepts")
    if classes.note:
        notes.append(classes.note)
    if findings > _KEPT:
        notes.append(f"{findings:,} findings, of which the {_KEPT} with the highest scores are kept")
    return notes


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return ", ".join(map(repr, texts[:_NAMED])) + more


def _stored(store: Store, inputs: AuditInputs, options: AuditOptions, rank: int, finding: Finding) -> StoredFinding:
    """Return a finding with its sentences and its evidence."""
    key = inputs.target.key
    activations = activations_of(store, inputs.target, finding.neuron, inputs.images)
    inside = inputs.members(finding.class_name)
    value = None
    if finding.column is not None:
        value = inputs.factors.rows[inputs.factors.values.index((finding.column, str(finding.value)))]
    pushes = list(zip(inputs.classes.names, inputs.effects[finding.neuron].tolist(), strict=True))
    label = inputs.labels[finding.neuron]
    return StoredFinding(
        finding=finding.identity(str(key)),
        neuron=label.neuron,
        rank=rank,
        kind=finding.kind,
        class_name=finding.class_name,
        subject=finding.subject,
        column_name=finding.column,
        value=finding.value,
        label=finding.label or label.text,
        plain_label=finding.plain,
        score=finding.score,
        effect=finding.effect,
        doubt=finding.doubt,
        push=finding.push,
        push_share=finding.push_share,
        above=finding.score > options.threshold,
        statement=statement(finding),
        refutation=refutation(finding),
        evidence=evidence_of(finding, activations, inside, inputs.classed() & ~inside, value, label, pushes),
    )
