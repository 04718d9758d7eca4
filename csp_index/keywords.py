"""The keyword arguments that methods of `Index` pass on, typed, so that editors and type checkers know them.

A test compares each class with the fields and the arguments that it repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from csp_index.labelling.texts.candidate_names import Candidates
    from csp_index.models.index_models import GivenModel, NetworkSource
    from csp_index.models.objects import Encoder, Network
    from csp_index.proposers.grids import LayoutStyle
    from csp_index.records import Progress
    from csp_index.studies.effects.stored_effects import EffectBy


class OpenKeywords(TypedDict, total=False):
    """What `csp_index.open_index` takes by keyword."""

    device: str | None
    models: Mapping[str, GivenModel] | None
    trust: bool
    image_roots: Sequence[str | Path]
    version: str | int | None


class LabelsFileKeywords(TypedDict, total=False):
    """What `Index.import_labels` takes by keyword: see `csp_index.labelling.elsewhere.imported.import_file`."""

    replaces: bool
    layer_name: str | None
    encoder: str | None


class ExampleKeywords(TypedDict, total=False):
    """The fields of ExampleOptions but `neighbours`."""

    examples: int
    contrast: str
    threshold: str
    floor: float
    reuse: bool
    min_similarity: float
    near_duplicate: float
    seed: int
    generator: str | None
    variants: int
    generator_seed: int
    caption_column: str | None
    variant_prompt: str


class LabelKeywords(ExampleKeywords, total=False):
    """The fields of ExampleOptions and of ScoringOptions, which share `seed`, and `crop` of LabelRequest."""

    neighbours: int
    crop: bool

    gamma: float
    alpha: float
    logit_scale: float | None
    prior: Literal["neurons", "images"]
    prior_weight: float | None
    renormalise_text: bool
    subtract_empty: bool
    bootstrap: int


class ViewKeywords(LabelKeywords, total=False):
    """What `Index.label` takes by keyword."""

    vocabulary: Candidates | None
    templates: str | None
    top: int
    encoder: str | None
    recompute: bool
    keep: bool
    search: bool | None
    explain: Callable[[str], None] | None
    candidates: str | Sequence[str]
    pool_candidates: bool
    null: str | None
    progress: Progress | None


class ProposeKeywords(ExampleKeywords, total=False):
    """The fields of ProposerOptions but `layout`, of Layout, and of ExampleOptions but `neighbours`."""

    model: str | None
    prompt: str
    concepts: int
    words: int
    new_tokens: int | None
    concurrency: int | None
    timeout: float | None
    device: str

    style: LayoutStyle
    columns: int
    cell: int


class EffectKeywords(TypedDict, total=False):
    """The fields of `csp_index.studies.effects.layer_effects.EffectOptions`."""

    by: EffectBy | None
    sample: int
    seed: int
    head: str | None
    column: str | None


class LayersKeywords(TypedDict, total=False):
    """What `csp_index.models.objects.list_layers` takes by keyword."""

    preprocess: Any
    input_shape: Sequence[int] | None


class ImportKeywords(TypedDict, total=False):
    """What `csp_index.indexing.import_arrays` takes by keyword."""

    embeddings: str | Path | None
    uris: str | Path | None
    encoder: str
    logit_scale: float | None
    shard_size: int | None
    dtype: str | None
    progress: Progress | None


class DoctorKeywords(TypedDict, total=False):
    """What `csp_index.indexing.doctor.examination.Examination` takes by keyword, but `models`."""

    encoders: Sequence[str | Encoder]
    networks: Sequence[NetworkSource | Network]
    dtype: str | None
    sample: int


class VerifyKeywords(TypedDict, total=False):
    """What `csp_index.integrity.verify.verify` takes by keyword, but `find_encoder`."""

    full: bool
    repair: bool
    progress: Progress | None


class OptimizeKeywords(TypedDict, total=False):
    """What `csp_index.contrast.vector_index.optimize` takes by keyword."""

    encoder: str | None
    kind: str
    questions: int
    keep_hours: float | None
    progress: Progress | None


class AssociationKeywords(TypedDict, total=False):
    """What `csp_index.studies.classes.associate.associate` takes by keyword."""

    classes: int | None
    bins: int | None
    firing: str | None
    recompute: bool
    progress: Progress | None


class FormulaKeywords(TypedDict, total=False):
    """What `csp_index.studies.meanings.make_formulas.layer_formulas` takes by keyword."""

    by: Sequence[str]
    firing: str | None
    seed: int
    recompute: bool
    progress: Progress | None


class MapKeywords(TypedDict, total=False):
    """What `csp_index.studies.layer_maps.make.make_map` takes by keyword."""

    seed: int
    neighbors: int
    min_dist: float
    cluster_size: int | None
    encoder: str | None
    recompute: bool
    progress: Progress | None


class AuditKeywords(TypedDict, total=False):
    """What `csp_index.studies.auditing.prepare.audit_network` takes by keyword."""

    by: str | None
    layer: str | None
    artefacts: Sequence[str]
    method: str | None
    vocabulary: Candidates | None
    threshold: float | None
    recompute: bool
    progress: Progress | None


class ReportKeywords(TypedDict, total=False):
    """What `csp_index.studies.reporting.write.write_audit_report` takes by keyword, which says what each does."""

    pdf: str | Path | None
    browser: str | None
    heat_maps: bool
    force: bool
    progress: Progress | None
