"""csp_index: a database of what the neurons of vision networks mean.

The names below load on first use, so that `csp-index --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from csp_index.errors import (
    AddressError,
    ArrayError,
    BusyError,
    ClusterError,
    CspIndexError,
    EvaluationError,
    GeneratorError,
    LabelError,
    LockedError,
    ModelError,
    NotFoundError,
    PluginError,
    ProposerError,
    QueryError,
    SettingError,
    SourceError,
    StoppedError,
    StoreError,
    StudyError,
)
from csp_index.tensors.torch_threads import sleep_when_idle

if TYPE_CHECKING:
    from csp_index.evaluation.evaluation import Evaluation
    from csp_index.evaluation.options import EvaluationOptions
    from csp_index.index import Index, open_index
    from csp_index.indexing.doctor.report import DoctorReport, IndexReport
    from csp_index.indexing.doctor.run import doctor
    from csp_index.labelling.candidates import CandidateTexts
    from csp_index.labelling.evidence import Evidence
    from csp_index.labelling.methods import MethodInfo
    from csp_index.labelling.scoring import ScoringMethod
    from csp_index.labelling.vocabularies import Vocabulary
    from csp_index.loading_reader import network_layers
    from csp_index.models.generators.image_generators import ImageGenerator
    from csp_index.models.generators.variant_generators import Original, Variant, VariantGenerator
    from csp_index.models.index_models import NetworkSource
    from csp_index.models.objects import Encoder, Network
    from csp_index.models.redrawn import redrawn
    from csp_index.proposers.proposer import Answer, Proposer, Question
    from csp_index.query.layer_view import Layers, LayerView
    from csp_index.query.neuron_view import NeuronView
    from csp_index.query.results import Labels, SqlResult
    from csp_index.records import (
        ExampleOptions,
        ExamplePair,
        Label,
        LabelScore,
        LayerKey,
        NeuronKey,
        ScoringOptions,
    )
    from csp_index.records.weighted_labels import LabelTerm, WeightedLabel
    from csp_index.studies.effects.stored_effects import EffectClass, LayerEffects, SumCheck

__version__ = "0.2.0"
__all__ = [
    "AddressError",
    "Answer",
    "ArrayError",
    "BusyError",
    "CandidateTexts",
    "ClusterError",
    "CspIndexError",
    "DoctorReport",
    "EffectClass",
    "Encoder",
    "Evaluation",
    "EvaluationError",
    "EvaluationOptions",
    "Evidence",
    "ExampleOptions",
    "ExamplePair",
    "GeneratorError",
    "ImageGenerator",
    "Index",
    "IndexReport",
    "Label",
    "LabelError",
    "LabelScore",
    "LabelTerm",
    "Labels",
    "LayerEffects",
    "LayerKey",
    "LayerView",
    "Layers",
    "LockedError",
    "MethodInfo",
    "ModelError",
    "Network",
    "NetworkSource",
    "NeuronKey",
    "NeuronView",
    "NotFoundError",
    "Original",
    "PluginError",
    "Proposer",
    "ProposerError",
    "QueryError",
    "Question",
    "ScoringMethod",
    "ScoringOptions",
    "SettingError",
    "SourceError",
    "SqlResult",
    "StoppedError",
    "StoreError",
    "StudyError",
    "SumCheck",
    "Variant",
    "VariantGenerator",
    "Vocabulary",
    "WeightedLabel",
    "__version__",
    "doctor",
    "network_layers",
    "open_index",
    "redrawn",
]

sleep_when_idle()  # has an effect only before torch is loaded

_HOMES = {
    "csp_index.evaluation.evaluation": ("Evaluation",),
    "csp_index.evaluation.options": ("EvaluationOptions",),
    "csp_index.indexing.doctor.report": ("DoctorReport", "IndexReport"),
    "csp_index.indexing.doctor.run": ("doctor",),
    "csp_index.labelling.candidates": ("CandidateTexts",),
    "csp_index.labelling.evidence": ("Evidence",),
    "csp_index.labelling.methods": ("MethodInfo",),
    "csp_index.labelling.scoring": ("ScoringMethod",),
    "csp_index.labelling.vocabularies": ("Vocabulary",),
    "csp_index.models.generators.image_generators": ("ImageGenerator",),
    "csp_index.models.generators.variant_generators": ("Original", "Variant", "VariantGenerator"),
    "csp_index.proposers.proposer": ("Answer", "Proposer", "Question"),
    "csp_index.index": ("Index", "open_index"),
    "csp_index.loading_reader": ("network_layers",),
    "csp_index.records": (
        "ExampleOptions",
        "ExamplePair",
        "Label",
        "LabelScore",
        "LayerKey",
        "NeuronKey",
        "ScoringOptions",
    ),
    "csp_index.models.index_models": ("NetworkSource",),
    "csp_index.models.objects": ("Encoder", "Network"),
    "csp_index.models.redrawn": ("redrawn",),
    "csp_index.query.layer_view": ("LayerView", "Layers"),
    "csp_index.query.neuron_view": ("NeuronView",),
    "csp_index.query.results": ("Labels", "SqlResult"),
    "csp_index.studies.effects.stored_effects": ("EffectClass", "LayerEffects", "SumCheck"),
    "csp_index.records.weighted_labels": ("LabelTerm", "WeightedLabel"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'csp_index' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
