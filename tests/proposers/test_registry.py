"""Proposers by name, and the options of asking them."""

from __future__ import annotations

import dataclasses

import pytest

from csp_index.errors import ProposerError, SettingError
from csp_index.proposers.propose import read_options
from csp_index.proposers.registry import ProposerOptions, load_proposer


def test_a_name_that_is_no_proposer_is_refused():
    for kind, spec in (
        ("vlm", "gpt-4"),
        ("vlm", "ollama:llava"),
        ("captioner", "openai:http://localhost"),
        ("vlm", "transformers:"),
    ):
        with pytest.raises(ProposerError, match=f"{kind} '{spec}' names no model: write "):
            load_proposer(kind, spec)  # type: ignore[arg-type]
    with pytest.raises(ProposerError, match="--vlm-model NAME"):
        load_proposer("vlm", "openai:http://127.0.0.1:9/v1")


def test_what_a_factory_makes_is_checked():
    assert load_proposer("vlm", "python:namers:namer").name == "python:namers:namer"
    with pytest.raises(ProposerError, match="made a object without kind, name, revision, prompt, ask"):
        load_proposer("vlm", "python:namers:no_proposer")
    with pytest.raises(ProposerError, match="of kind 'vlm', expected captioner"):
        load_proposer("captioner", "python:namers:namer")


def test_options_go_where_they_belong():
    shown, asked = read_options({"examples": 4, "contrast": "random", "style": "composed", "words": 2, "seed": None})
    assert (shown.examples, shown.contrast, shown.reuse, shown.seed) == (4, "random", False, 0)
    assert asked == dataclasses.replace(
        ProposerOptions(), words=2, layout=dataclasses.replace(ProposerOptions().layout, style="composed")
    )
    with pytest.raises(SettingError, match="option 'grids' is unknown"):
        read_options({"grids": 2})
