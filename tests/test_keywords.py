"""Keyword arguments of `Index` are typed: the types repeat fields and signatures, and a checker sees a wrong call."""

from __future__ import annotations

import inspect
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from checkout import ROOT
from mypy import api

from csp_index import keywords
from csp_index.contrast.vector_index import optimize
from csp_index.index import Index
from csp_index.indexing.doctor.examination import Examination
from csp_index.indexing.import_arrays import import_arrays
from csp_index.integrity.verify import verify
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.methods import CROP
from csp_index.labelling.request import LabelRequest
from csp_index.labelling.texts.candidate_names import Candidates
from csp_index.models.index_models import GivenModel, Models, NetworkSource
from csp_index.models.objects import Encoder, Network, list_layers
from csp_index.proposers.grids import Layout, LayoutStyle
from csp_index.proposers.registry import ProposerOptions
from csp_index.records import ExampleOptions, Progress, ScoringOptions
from csp_index.studies.auditing.prepare import audit_network
from csp_index.studies.classes.associate import associate
from csp_index.studies.effects.layer_effects import EffectOptions
from csp_index.studies.effects.stored_effects import EffectBy
from csp_index.studies.layer_maps.make import make_map
from csp_index.studies.reporting.write import write_audit_report

# What only type checkers import where it is named: a program that reads an index does not wait for it.
TYPE_ONLY = {one.__name__: one for one in (CandidateTexts, Encoder, Models, Network, NetworkSource, Index, Path)} | {
    "GivenModel": GivenModel,
    "Candidates": Candidates,
    "LayoutStyle": LayoutStyle,
    "Progress": Progress,
    "EffectBy": EffectBy,
}


def field_types(kind: type) -> dict[str, Any]:
    """Return the types of a record's fields by name."""
    types = typing.get_type_hints(kind)
    return {field.name: types[field.name] for field in fields(kind)}


def keyword_types(function: Any) -> dict[str, Any]:
    """Return the types of the arguments that a function takes by keyword only, without those in `**options`."""
    types = typing.get_type_hints(function, localns=TYPE_ONLY)
    parameters = inspect.signature(function).parameters.values()
    return {one.name: types[one.name] for one in parameters if one.kind is one.KEYWORD_ONLY}


LABEL = field_types(ExampleOptions) | field_types(ScoringOptions) | {CROP: field_types(LabelRequest)[CROP]}
PROPOSE = field_types(ExampleOptions) | field_types(ProposerOptions) | field_types(Layout)
REPEATED = {
    keywords.ExampleKeywords: {
        name: kind for name, kind in field_types(ExampleOptions).items() if name != "neighbours"
    },
    keywords.LabelKeywords: LABEL,
    keywords.ViewKeywords: LABEL | keyword_types(Index.label),
    keywords.ProposeKeywords: {name: kind for name, kind in PROPOSE.items() if name not in ("layout", "neighbours")},
    keywords.EffectKeywords: field_types(EffectOptions),
    keywords.LayersKeywords: keyword_types(list_layers),
    keywords.ImportKeywords: keyword_types(import_arrays),
    keywords.OptimizeKeywords: keyword_types(optimize),
    keywords.DoctorKeywords: {name: kind for name, kind in field_types(Examination).items() if name != "models"},
    keywords.AssociationKeywords: keyword_types(associate),
    keywords.AuditKeywords: keyword_types(audit_network),
    keywords.MapKeywords: keyword_types(make_map),
    keywords.ReportKeywords: keyword_types(write_audit_report),
    keywords.VerifyKeywords: {name: kind for name, kind in keyword_types(verify).items() if name != "find_encoder"},
}


@pytest.mark.parametrize("kind", REPEATED, ids=lambda kind: kind.__name__)
def test_keywords_are_the_fields_and_arguments_they_repeat(kind: type) -> None:
    assert typing.get_type_hints(kind, localns=TYPE_ONLY) == REPEATED[kind]
    assert not kind.__required_keys__


def test_fields_of_one_name_have_one_type() -> None:
    for first, second in (
        (ExampleOptions, ScoringOptions),
        (ExampleOptions, ProposerOptions),
        (ProposerOptions, Layout),
    ):
        one, other = field_types(first), field_types(second)
        assert {name: one[name] for name in one.keys() & other} == {name: other[name] for name in one.keys() & other}


@pytest.mark.parametrize(
    ("method", "kind"),
    {
        "label": keywords.LabelKeywords,
        "check_candidates": keywords.LabelKeywords,
        "view": keywords.ViewKeywords,
        "propose": keywords.ProposeKeywords,
        "effects": keywords.EffectKeywords,
        "import_arrays": keywords.ImportKeywords,
        "optimize": keywords.OptimizeKeywords,
        "verify": keywords.VerifyKeywords,
        "doctor": keywords.DoctorKeywords,
        "associations": keywords.AssociationKeywords,
        "formulas": keywords.FormulaKeywords,
        "audit": keywords.AuditKeywords,
        "make_map": keywords.MapKeywords,
        "report": keywords.ReportKeywords,
    }.items(),
)
def test_methods_take_typed_keywords(method: str, kind: type) -> None:
    options = inspect.signature(getattr(Index, method)).parameters["options"]
    assert options.annotation == f"Unpack[keywords.{kind.__name__}]"


def test_no_method_takes_untyped_keywords() -> None:
    methods = [value for name, value in vars(Index).items() if inspect.isfunction(value) and not name.startswith("_")]
    assert len(methods) > 10
    for method in methods:
        for one in inspect.signature(method).parameters.values():
            assert one.kind is not one.VAR_KEYWORD or str(one.annotation).startswith("Unpack["), method


CALLS = """\
from csp_index import network_layers, open_index

index = open_index("db")
index.label("m/l", gamma=0.5, examples=10, prior="images")
index.label("m/l", gama=0.5)
index.label("m/l", examples="ten")
index.check_candidates("m/l", prior="texts")
index.view("m/l/0", vocabulary=["red"], gamma=0.5)
index.view("m/l/0", top="all")
index.propose("m/l", vlm="openai:http://x/v1", model="m", style="composed")
index.propose("m/l", style="round")
index.import_arrays("A.npy", "m/l", embeddings="E.npy")
index.import_arrays("A.npy", "m/l", embedings="E.npy")
index.optimize(kind="none", questions=10)
index.optimize(hours=1)
network_layers("timm:resnet18", shape=(3, 64, 64))
"""


@pytest.mark.slow
def test_a_type_checker_finds_wrong_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = tmp_path / "calls.py"
    path.write_text(CALLS)
    output, errors, status = api.run(["--config-file", "pyproject.toml", str(path)])
    assert (status, errors) == (1, "")
    lines = [int(line.split(":")[1]) for line in output.splitlines() if ": error: " in line]
    wrong = ("gama", '"ten"', '"texts"', '"all"', '"round"', "embedings", "hours", "shape=")
    assert lines == [number for number, line in enumerate(CALLS.splitlines(), 1) if any(word in line for word in wrong)]
