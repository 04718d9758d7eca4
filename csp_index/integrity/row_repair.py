"""Repairs of results and of what derives from columns, under the write lock: rows are dropped, or taken elsewhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from csp_index.integrity.findings import Finding
from csp_index.integrity.text_checks import sql_of
from csp_index.labelling.texts.candidate_names import template_key
from csp_index.labelling.vocabularies import digest
from csp_index.models.prompt_templates import TEMPLATE_SETS
from csp_index.store import catalog, column_tables, schema
from csp_index.store.layout import DATA, holds_rows
from csp_index.store.study_tables import (
    ASSOCIATION_CLASSES,
    ASSOCIATIONS,
    AUDITS,
    COMPARISONS,
    EFFECTS,
    EVOLUTION,
    FACETS,
    FINDINGS,
    FORMULAS,
    HIERARCHIES,
    HIERARCHY_LEVELS,
    HIERARCHY_WORDS,
    LAYER_MAPS,
    MAP_CLUSTERS,
    MAP_PLACES,
    MATCHES,
    NOTES,
    RATINGS,
)
from csp_index.store.tables import Store

_COMMANDS = {  # that wrote the rows of tables
    schema.LABELS: "label",
    schema.EXAMPLES: "label",
    "label": "label",  # label_terms
    "concepts": "label",
    schema.ANSWERS: "candidates",
    schema.CANDIDATES: "candidates",
    schema.EVALUATIONS: "evaluate",
    AUDITS: "audit",
    FINDINGS: "audit",
    **dict.fromkeys((ASSOCIATIONS, ASSOCIATION_CLASSES), "associations"),
    "association": "associations",  # association_classes
    EFFECTS: "effects",
    "effect": "effects",  # effect_classes
    NOTES: "note",
    RATINGS: "serve",
    **dict.fromkeys((COMPARISONS, MATCHES), "compare"),
    EVOLUTION: "evolution",
    FACETS: "facets",
    FORMULAS: "formulas",
    **dict.fromkeys((HIERARCHIES, HIERARCHY_WORDS, HIERARCHY_LEVELS), "hierarchy"),
    **dict.fromkeys((LAYER_MAPS, MAP_CLUSTERS, MAP_PLACES), "map"),
}


def empty(store: Store, table: str) -> None:
    """Put no rows in place of all rows of a table, if it is there."""
    if store.has(table):
        store.replace(table, store.dataset(table).schema.empty_table())


def empty_tables(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Empty the tables of some findings: what they held is made again when it is needed."""
    lines = []
    for table in sorted({finding.table for finding in findings}):
        empty(store, table)
        lines.append(f"{table}: emptied; it is made again when it is needed")
    return lines


def keep_whole(store: Store, table: str, files: Sequence[str]) -> tuple[int, int]:
    """Keep only the rows of a table that are in none of its damaged files; return how many are kept, and were there."""
    before, source = store.count(table), store.dataset(table)
    parts = []
    for fragment in source.get_fragments():
        own = [f"{DATA}/{file.path}" for file in fragment.data_files()] + [fragment.deletion_file()]
        if not set(own) & set(files):
            parts.append(fragment.to_table())
    rows = pa.concat_tables(parts) if parts else source.schema.empty_table()
    store.replace(table, rows.cast(source.schema))
    return rows.num_rows, before


def _damaged_files(findings: Sequence[Finding]) -> dict[str, list[str]]:
    files: dict[str, list[str]] = defaultdict(list)
    for finding in findings:
        if holds_rows(finding.where):
            files[finding.table].append(finding.where)
    return files


def delete_rows(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Delete the rows that findings name, and those of damaged files."""
    lines = _keep_whole_files(store, findings)
    for finding in findings:
        if len(finding.key) == 2:
            table, condition = finding.key
            lines.append(f"{table}: {store.delete(table, condition)} rows are deleted ({finding.what})")
        elif not holds_rows(finding.where):
            empty(store, finding.table)
            lines.append(f"{finding.table}: emptied ({finding.what})")
    return lines


def _keep_whole_files(store: Store, findings: Sequence[Finding]) -> list[str]:
    lines = []
    for table, files in _damaged_files(findings).items():
        kept, before = keep_whole(store, table, files)
        lines.append(f"{table}: {before - kept:,} of {before:,} rows were in damaged files and are deleted")
    return lines


def delete_results(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Delete labels with their pairs and vectors, by run."""
    lines = []
    tables = [schema.LABELS, schema.LABEL_TERMS, schema.LABEL_PROBABILITIES, schema.EXAMPLES]
    tables += [name for name in store.table_names() if name.startswith("concepts_")]
    for condition in sorted({finding.key[1] for finding in findings}):
        count = store.count(schema.LABELS, f"{condition} AND rank <= 0")
        for table in tables:
            if store.has(table):
                store.delete(table, condition)
        what = next(finding.what for finding in findings if finding.key[1] == condition)
        lines.append(f"labels: {count:,} labels of {condition} are deleted ({what}): label these neurons again")
    return lines


def drop_indexes(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Drop all indexes of tables; `optimize` builds them again."""
    lines = []
    for table in sorted({finding.table for finding in findings}):
        with store.upkeep(table) as dataset:
            for index in dataset.describe_indices():
                dataset.drop_index(index.name)
        lines.append(f"{table}: its vector index is dropped: `csp-index optimize DB` builds it again")
    return lines


def drop_texts(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Drop the embeddings of vocabularies; labelling embeds them again."""
    lines = []
    for finding in findings:
        if len(finding.key) == 2 and finding.where not in finding.key:
            count = store.delete(finding.table, sql_of(finding.key))
            lines.append(f"{finding.table}: {count:,} embeddings of {finding.where} are dropped")
    whole = [finding for finding in findings if len(finding.key) == 1]
    return lines + empty_tables(store, whole, run_id)


def take_vocabularies(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Take lost vocabularies from the texts that are embedded; drop those that are not."""
    lines = _keep_whole_files(store, findings)
    broken = {finding.key for finding in findings if len(finding.key) == 2}
    for group in sorted(broken):
        store.delete(schema.VOCABULARIES, sql_of(group))
    present = store.read(schema.VOCABULARIES, ["vocabulary", "template_set"])
    known = set(zip(*(column.to_pylist() for column in present.columns), strict=True))
    sets = {template_key(name): name for name in (*TEMPLATE_SETS, *(group[1] for group in broken))}
    for table in (column_tables.texts_table(info.name) for info in catalog.encoders(store)):
        rows = store.read(table, ["vocabulary", "template_set", "position", "text"]) if store.has(table) else None
        if rows is None:
            continue
        for group in rows.group_by(["vocabulary", "template_set"]).aggregate([]).to_pylist():
            key, template_set = group["vocabulary"], sets.get(group["template_set"])
            if template_set is None or (key, template_set) in known:
                continue
            same = pc.and_(pc.equal(rows["vocabulary"], key), pc.equal(rows["template_set"], group["template_set"]))
            texts = rows.filter(same).sort_by("position")["text"].to_pylist()
            if texts[-1:] == [""] and digest(texts[:-1]) == key.rpartition("@")[2]:
                known.add((key, template_set))
                own = [
                    {"vocabulary": key, "template_set": template_set, "position": place, "text": text}
                    for place, text in enumerate(texts[:-1])
                ]
                store.append(schema.VOCABULARIES, pa.Table.from_pylist(own, schema.table_schema(schema.VOCABULARIES)))
                lines.append(
                    f"vocabularies: {key} is taken from the embedded texts; it is the one that `label` takes now"
                )
    return lines or [f"vocabularies: {len(broken)} are dropped"]


def name_runs(store: Store, findings: Sequence[Finding], run_id: str) -> list[str]:
    """Give the runs that rows name and nothing describes any more a row without settings."""
    lines = _keep_whole_files(store, findings)
    doubled = [finding.key[1] for finding in findings if len(finding.key) == 2]
    for condition in doubled:
        first = store.read(schema.RUNS, where=condition).slice(0, 1)
        store.delete(schema.RUNS, condition)
        store.append(schema.RUNS, first)
        lines.append("runs: a row that was there more than once is there once")
    store.create(schema.RUNS, schema.table_schema(schema.RUNS))
    known = set(store.read(schema.RUNS, ["run_id"])["run_id"].to_pylist())
    named: dict[str, str] = {}
    for table in store.table_names():
        if "run_id" in store.dataset(table).schema.names and table != schema.RUNS:
            for run in store.read(table, ["run_id"])["run_id"].unique().to_pylist():
                named.setdefault(run, _COMMANDS.get(table.partition("_")[0], "index"))
    rows = []
    for run in sorted(run for run in named if run and run not in known):
        row = {"run_id": run, "command": named[run], "state": "done", "started": _start(run), "settings": "{}"}
        rows.append(
            row | {"settings_hash": "", "models": "{}", "versions": "{}", "seed": 0, "message": "lost: named again"}
        )
    if rows:
        store.append(schema.RUNS, pa.Table.from_pylist(rows, schema.table_schema(schema.RUNS)))
        lines.append(f"runs: {len(rows):,} lost runs have a row without settings; the preferred method may be lost")
    return lines


def _start(run: str) -> datetime | None:
    """Return when a run began, as its id says."""
    try:
        return datetime.strptime(run.partition("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    except ValueError:
        return None
