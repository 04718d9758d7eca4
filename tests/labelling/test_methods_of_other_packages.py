"""Methods that other installed packages offer."""

from __future__ import annotations

import sys

import pytest
from fakes import write_arrays
from made_evidence import OPTIONS, evidence

from csp_index import open_index
from csp_index.errors import LabelError, PluginError
from csp_index.labelling import scoring
from csp_index.labelling.candidates import read_text_arrays
from csp_index.labelling.methods import method_names
from csp_index.labelling.scoring import FORMULAS
from csp_index.models.plugins import offered

THEIRS = """
from csp_index.labelling.methods import MethodInfo
from csp_index.labelling.scoring import FORMULAS, ScoringMethod

def plain(evidence, options):
    'The first label wins.'
    import torch
    return -torch.arange(len(evidence.texts)).float().expand(len(evidence.activating), -1)

def narrow(evidence, options):
    return plain(evidence, options)[:, :-1]

def broken(evidence, options):
    raise ValueError("no\\nluck")

def lost(evidence, options):
    return plain(evidence, options) + float("nan")

row = ScoringMethod(MethodInfo("a row of its own", examples=7), vector=FORMULAS["semanticlens"].vector)
number = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a distribution that offers methods on the search path."""
    for cached in (scoring._of_other_packages, offered):
        cached.cache_clear()

    def offer(*lines: str, name: str = "theirs") -> None:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("[csp_index.methods]\n" + "\n".join(lines) + "\n")
        (tmp_path / "their_methods.py").write_text(THEIRS)

    monkeypatch.syspath_prepend(tmp_path)
    yield offer
    for cached in (scoring._of_other_packages, offered):
        cached.cache_clear()
    sys.modules.pop("their_methods", None)


def test_a_method_of_another_package_is_used_by_its_name(install, tmp_path):
    install("theirs = their_methods:plain", "their-row = their_methods:row")
    assert method_names()[-2:] == ["their-row", "theirs"]
    assert scoring.method("theirs").info.summary == "The first label wins."
    assert scoring.method("their-row").info.examples == 7
    paths = write_arrays(tmp_path / "arrays")
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    labels = index.label("m/l", method="theirs", vocabulary=texts)
    assert [label.text for label in labels if label.state == "labelled"] == ["text 0"] * 7
    assert [score.text for score in labels[0].labels] == [f"text {i}" for i in range(5)]
    assert len(index.label("m/l/0", method="their-row", vocabulary=texts)[0].pairs) == 7
    with pytest.raises(LabelError, match=r"method 'thiers' is unknown .has: csp, .*, their-row, theirs"):
        index.label("m/l", method="thiers", vocabulary=texts)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["csp = their_methods:plain"], r"package theirs .*offers the method 'csp', which csp_index has"),
        (["theirs = their_methods:number"], "it is a int: expected a ScoringMethod or a function"),
        (["theirs = their_methods:absent"], "the method 'theirs' .their_methods:absent. cannot be imported"),
        (["theirs = no_such_module:plain"], "cannot be imported: No module named 'no_such_module'"),
        (["theirs = their_methods:narrow"], r"'theirs' returned \[5, 6\]: expected scores .neurons, labels., \[5, 7\]"),
        (["theirs = their_methods:broken"], "the method 'theirs' failed: ValueError: no luck"),
        (["theirs = their_methods:lost"], "'theirs' returned scores that are not finite"),
    ],
)
def test_what_is_wrong_with_a_method_of_another_package_is_told_in_one_line(install, lines, told):
    install(*lines)
    with pytest.raises((LabelError, PluginError), match=told) as error:
        scoring.score("theirs", evidence(), OPTIONS)
    assert "\n" not in str(error.value)


def test_a_method_offered_twice_is_told(install):
    install("theirs = their_methods:plain")
    install("theirs = their_methods:narrow", name="others")
    with pytest.raises(PluginError, match=r"'theirs' is offered twice, by the package (theirs|others)"):
        scoring.method("theirs")


def test_built_in_methods_do_not_wait_for_other_packages(install):
    install("theirs = no_such_module:plain")
    assert scoring.method("csp") is FORMULAS["csp"]
