"""A layer's labels put into a hierarchy: read where that is stored under the same settings, else made and stored."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from csp_index.concurrency import unseen
from csp_index.errors import SettingError, StudyError
from csp_index.evaluation.hierarchy import Hierarchy, load_hierarchy
from csp_index.files.regular_files import user_path
from csp_index.labelling.texts.candidate_names import Candidates, TextSpace, plain_candidates
from csp_index.records import Progress, check_seed
from csp_index.store.catalog import LayerInfo
from csp_index.store.runs import record_run, settings_hash
from csp_index.studies.column_digests import column_digest
from csp_index.studies.hierarchies.levels import KEEP, ROUNDS
from csp_index.studies.hierarchies.records import LayerHierarchy
from csp_index.studies.hierarchies.stored import stored_hierarchy, write_hierarchy
from csp_index.studies.shown_labels import shown_labels

_VERSION = 2  # of what the numbers are made of: another one is another settings hash


@dataclass(frozen=True, slots=True)
class HierarchyOptions:
    """How levels are chosen: the seed of the split and of the resamples, and what a broader word must keep."""

    seed: int = 0
    keep: float = KEEP  # share of the label's correlation

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if not 0 <= self.keep <= 1:
            raise SettingError(f"keep is {self.keep}: expected a share from 0 to 1")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where levels come from: the hierarchy's file, the vocabulary of narrower words, the run."""

    source: str
    vocabulary: str
    run_id: str
    settings_hash: str


def arrange_labels(
    space: TextSpace,
    target: LayerInfo,
    file: str | Path | Hierarchy,
    options: HierarchyOptions,
    *,
    vocabulary: Candidates | None = None,
    recompute: bool = False,
    progress: Progress | None = None,
) -> LayerHierarchy:
    """Return a layer's shown labels at the level of a hierarchy that their neurons' activations bear.

    `file` is a table child,parent or WordNet's `data.noun` (`evaluation.hierarchy`). Words of the vocabulary are the
    narrower words of a union. Labels that the hierarchy lacks keep their place outside, and are counted. Errors:
    EvaluationError for a file that cannot be read or has a cycle; StudyError where no neuron has a label, or none that
    the hierarchy knows.
    """
    store = space.store
    hierarchy = file if isinstance(file, Hierarchy) else load_hierarchy(file)
    source = "given" if isinstance(file, Hierarchy) else user_path(file).name
    labels = shown_labels(store, target)
    known = sorted({text for text in labels.texts if text is not None and hierarchy.has(text)})
    _check_known(target, labels.texts, known, source, len(hierarchy))
    load, key = plain_candidates(space, vocabulary)
    described: dict[str, object] = {
        "layer": [str(target.key), column_digest(store, target)],
        "encoder": [space.source.name, column_digest(store, space.source)],
        "labels": labels.digest,
        "hierarchy": [source, _digest(hierarchy)],
        "vocabulary": [key, space.template_set],
        "seed": options.seed,
        "keep": options.keep,
        "rounds": ROUNDS,
        "version": _VERSION,
    }
    if not recompute and (found := stored_hierarchy(store, target.key, settings_hash(described))) is not None:
        return found
    from csp_index.studies.hierarchies.make import make_hierarchy  # torch: what is stored does not wait for it

    models = {target.what: target.identity, space.source.what: space.source.identity}
    with store.write_lock(), record_run(store, "hierarchy", described, models) as run:
        origin = Origin(source, key, run.run_id, run.settings_hash)
        tell = progress or unseen
        found = make_hierarchy(space, target, hierarchy, labels.texts, load(), options, origin, tell)
        write_hierarchy(store, found)
    return found


def _check_known(target: LayerInfo, texts: tuple[str | None, ...], known: list[str], source: str, words: int) -> None:
    labels = [text for text in texts if text is not None]
    if not labels:
        raise StudyError(f"no neuron of {target.key} has a label: run `csp-index label DB --layer {target.key}` first")
    if not known:
        raise StudyError(
            f"none of the labels of {target.key} ({', '.join(map(repr, dict.fromkeys(labels[:3])))}, ...) is among the "
            f"{words:,} words of {source}: expected a hierarchy of the words that labels use"
        )


def _digest(hierarchy: Hierarchy) -> str:
    """Return a hash of the words and their parents, whatever file they came from."""
    digest = hashlib.sha256()
    for node in range(len(hierarchy)):
        digest.update(repr((hierarchy.node_names(node), hierarchy.broader(node))).encode())
    return digest.hexdigest()[:16]
