"""A report as a folder: a self-contained page, and the same data as JSON and CSV.

The folder is written under another name and renamed when it is complete, so a killed run leaves no partial report.
Knows nothing about indexes: a function provides the picture cards.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow import csv

from csp_index.errors import EvaluationError, one_line
from csp_index.evaluation.evaluation import Evaluation
from csp_index.evaluation.metrics.calibration import reliability
from csp_index.evaluation.metrics.intervals import ROUNDS
from csp_index.evaluation.metrics.sanity import PUBLISHED, Published, SanityReport, SanityRow
from csp_index.evaluation.metrics.table import METRICS, NEEDS, named
from csp_index.evaluation.people import People, people_of
from csp_index.evaluation.report.cards import evaluated_cards
from csp_index.evaluation.report.page import Cards, Page, Rows
from csp_index.evaluation.report.rendering import environment, plain
from csp_index.evaluation.report.shared_labels import collision_rows
from csp_index.evaluation.report.summary import (
    POOLED,
    SIGNIFICANT,
    Grid,
    check_not_alone,
    compare,
    make_grid,
    summarise,
)
from csp_index.evaluation.report.wording import CONTROLS, base_name, figure
from csp_index.files.regular_files import user_path
from csp_index.records import Label
from csp_index.store import catalog
from csp_index.store.tables import Store

__all__ = ["calibration_rows", "report_evaluation", "write_report"]

_POOR: Final = "contrast-poor"
_FORMAT: Final = "csp_index evaluation report"
_PAGE, _DATA = "index.html", "evaluation.json"
_FILES: Final = (_PAGE, _DATA, "values.csv", "summary.csv", "comparisons.csv")
_PACKAGES: Final = ("csp_index", "torch", "numpy", "scipy", "pyarrow", "matplotlib")
_Extras = tuple[Cards | None, SanityReport | None, Rows | None, People]  # the metrics' own test second
_COMPARED = 3  # neurons shown of those that gain most, and of those that lose most


def write_report(
    evaluation: Evaluation,
    folder: str | Path,
    cards: Cards | None = None,
    sanity: SanityReport | Rows | None = None,
    calibration: Rows | None = None,
    people: People | None = None,
) -> Path:
    """Write a report's folder and return its page; an older report there is replaced.

    `cards` returns the PNG of a neuron's card for its address and a method, or None. `sanity` is the metrics' own test,
    or its rows as mappings; `calibration` are rows of `calibration_rows`; `people` is what people said of the labels.
    Raises EvaluationError for a folder with other files, for one that cannot be written, and for an evaluation in which
    CoSy's metrics would be alone.
    """
    target = user_path(folder).resolve()
    check_folder(target)
    grid = make_grid(evaluation)
    if not grid.rows:
        raise EvaluationError("the evaluation has no values: evaluate some labels before writing a report")
    check_not_alone(grid)
    stated = evaluation.settings.get("seed")
    seed = stated if isinstance(stated, int) else 0
    summary = summarise(evaluation, seed=seed)
    comparisons = compare(evaluation, seed=seed)
    page = Page(evaluation, grid, summary, comparisons)
    tested = SanityReport(tuple(SanityRow(**row) for row in sanity)) if isinstance(sanity, Sequence) else sanity
    html = _render(page, grid, evaluation, (cards, tested, calibration, people or People()))
    data = {
        "format": _FORMAT,
        "run_id": evaluation.run_id,
        "settings": evaluation.settings,
        "versions": _versions(),
        "skipped": evaluation.skipped,
        "metrics": [
            {"name": metric.name, "family": metric.family, "summary": metric.summary}
            | {"higher_is_better": metric.higher_is_better, "low": metric.low, "high": metric.high}
            for name, metric in METRICS.items()
            if name in grid.metrics
        ],
        "summary": summary.to_pylist(),
        "comparisons": comparisons.to_pylist(),
        "collisions": collision_rows(evaluation, grid),
        "null": list(evaluation.null),
        "sanity": [asdict(row) for row in tested.rows] if tested else None,
        "calibration": calibration,
        "people": None if people is None else people.as_json(),
        "values": _columns(_finite(evaluation.values)),
    }
    text = json.dumps(plain(data), ensure_ascii=False, allow_nan=False)
    tables = {"values": _finite(evaluation.values), "summary": summary, "comparisons": comparisons}
    try:
        _write(target, html, text, tables)
    except OSError as exc:
        raise EvaluationError(f"the report cannot be written to {target}: {one_line(exc)}") from exc
    return target / _PAGE


def report_evaluation(
    store: Store,
    evaluation: Evaluation,
    folder: str | Path,
    label: Callable[..., Iterable[Label]],
    draw: Callable[[Label, Path], Path],
    sanity: SanityReport | None = None,
) -> Path:
    """Write the report of an evaluation of an index, with cards and what people said of the labels; return its page.

    `label` labels neurons as `Index.label` does, `draw` writes the card of a label.
    """
    source = catalog.encoder(store, str(evaluation.settings["encoder"]))
    unstored = partial(label, encoder=source.name, keep=False, bootstrap=0)
    cards = evaluated_cards(evaluation, source.width, unstored, draw)
    people = people_of(store, evaluation)
    return write_report(evaluation, folder, cards, sanity, calibration_rows(evaluation), people)


def calibration_rows(
    evaluation: Evaluation, stated: str = "confidence", right: str = "agreement-exact", bins: int = 10
) -> list[dict[str, Any]]:
    """Return how often labels with a stated probability are right, by method and bins of equal width.

    `stated` names the metric with the probability, `right` the one that is 1 where the label is right. Keys: method,
    predicted (mean probability of the bin), share (of labels that are right), low, high (Wilson's interval), count.
    Empty bins and methods that lack either metric are left out. If there are several methods, the rows of all their
    labels together come first, under `POOLED`, without those of the controls.
    """
    grid = make_grid(evaluation)
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for method in grid.methods:
        if (method, stated) in grid.rows and (method, right) in grid.rows:
            probability, hit = grid.row(method, stated), grid.row(method, right)
            both = ~(np.isnan(probability) | np.isnan(hit))
            pairs[method] = probability[both], hit[both]
    scored = [pair for method, pair in pairs.items() if base_name(method) not in CONTROLS]
    if len(scored) > 1:
        pooled = tuple(np.concatenate(side) for side in zip(*scored, strict=True))
        pairs = {POOLED: (pooled[0], pooled[1]), **pairs}
    rows: list[dict[str, Any]] = []
    for method, (probability, hit) in pairs.items():
        table = reliability(torch.from_numpy(probability), torch.from_numpy(hit), bins)
        columns = zip(*(x.tolist() for x in (table.mean, table.right, table.low, table.high, table.count)), strict=True)
        names = ("predicted", "share", "low", "high", "count")
        rows += [{"method": method} | dict(zip(names, column, strict=True)) for column in columns if column[-1]]
    return rows


def _render(page: Page, grid: Grid, evaluation: Evaluation, extras: _Extras) -> str:
    cards, sanity, calibration, people = extras
    gains, losses = page.comparison_cards(cards, _COMPARED)
    template = environment().get_template("report.html.jinja")
    return template.render(
        page=page,
        sections=page.sections(),
        poor=_poor(grid),
        collisions=_cells(collision_rows(evaluation, grid)),
        null_rows=_cells(evaluation.null),
        people=people,
        people_agreement=_cells(list(people.agreement)),
        people_methods=_cells(list(people.methods)),
        gains=gains,
        losses=losses,
        calibration_rows=_cells(calibration),
        calibration_chart=page.calibration(calibration),
        sanity_rows=_cells([asdict(row) for row in sanity.rows] if sanity else None),
        sanity_verdicts=_verdicts(sanity),
        sanity_chart=page.sanity(sanity),
        skipped=_skipped(evaluation.skipped, grid.metrics),
        run_id=evaluation.run_id,
        settings=_flat(evaluation.settings),
        versions=_versions(),
        rounds=ROUNDS,
        significant=SIGNIFICANT,
        files=_FILES[1:],
    )


def _skipped(reasons: Mapping[str, str], present: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return what the evaluation left out: (part, reason, names of the metrics that it would add to those present)."""
    needs = {left_out.part: need for need, left_out in NEEDS.items()}
    absent = [metric for metric in METRICS.values() if metric.name not in present]
    metrics = {part: ", ".join(m.name for m in absent if needs.get(part) in m.needs) for part in reasons}
    return [(part, reason, metrics[part]) for part, reason in reasons.items()]


def _poor(grid: Grid) -> list[list[str]]:
    """Return the neurons with a poor contrast, by method, with its measures; the first row has the names."""
    measures = [name for name in named("pairs") if name not in (_POOR, "contrast-duplicates")]
    rows = [
        [method, grid.neurons[column], *(figure(float(grid.row(method, name)[column])) for name in measures)]
        for method in grid.methods_of(_POOR)
        for column in np.flatnonzero(grid.row(method, _POOR) == 1).tolist()
    ]
    return [["method", "neuron", *(name.removeprefix("contrast-") for name in measures)], *rows] if rows else []


def check_folder(folder: str | Path) -> None:
    """Refuse a folder whose content would be lost, and an empty path."""
    if not str(folder):
        raise EvaluationError("the report's folder is an empty text: name a new or empty folder")
    target = user_path(folder).resolve()
    if not target.exists():
        return
    try:
        names = sorted(entry.name for entry in target.iterdir())
        other = [name for name in names if name not in _FILES]
        replaceable = not names or (not other and _is_report(target / _DATA))
    except OSError as exc:
        raise EvaluationError(f"no report can be written to {target}: {one_line(exc)}") from exc
    if not replaceable:
        excerpt = ", ".join((other or names)[:3])
        raise EvaluationError(f"{target} has files that are not of a report ({excerpt}): name a new or empty folder")


def _is_report(file: Path) -> bool:
    if not file.is_file():
        return False
    # The first bytes are enough; the file itself may be large.
    with file.open("rb") as stream:
        return stream.read(200).startswith(json.dumps({"format": _FORMAT})[:-1].encode())


def _harmless(table: pa.Table) -> pa.Table:
    """Return the table with an apostrophe before texts that a spreadsheet would run as a formula."""
    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type):
            texts = pc.replace_substring_regex(table.column(place), r"^([=+\-@\t\r])", r"'\1")
            table = table.set_column(place, field, texts)
    return table


def _write(target: Path, html: str, text: str, tables: Mapping[str, pa.Table]) -> None:
    """Write all files under another name, then rename that folder to the target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = uuid.uuid4().hex[:12]
    draft, old = (target.with_name(f".{target.name}.{word}-{suffix}") for word in ("draft", "old"))
    try:
        draft.mkdir()
        (draft / _PAGE).write_text(html, encoding="utf-8")
        (draft / _DATA).write_text(text, encoding="utf-8")
        for name, table in tables.items():
            csv.write_csv(_harmless(table), draft / f"{name}.csv")
        if target.exists():
            target.rename(old)
        draft.rename(target)
    finally:
        if old.exists() and not target.exists():  # stopped between the two renames: the older report stays
            old.rename(target)
        for leftover in (draft, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _versions() -> dict[str, str]:
    versions = {"python": python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed as a package"
    return versions


def _finite(values: pa.Table) -> pa.Table:
    """Return the values with null instead of NaN and infinity."""
    column = values["value"]
    position = values.schema.get_field_index("value")
    finite = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type))
    return values.set_column(position, values.schema.field(position), finite)


def _columns(table: pa.Table) -> dict[str, Any]:
    """Return a table as its column names and rows, half the size of one object per row."""
    return {"columns": table.column_names, "rows": list(zip(*(c.to_pylist() for c in table.columns), strict=True))}


def _flat(settings: Mapping[str, object], before: str = "") -> list[tuple[str, str]]:
    """Return settings as pairs of name and value, nested ones named outer.inner."""
    lines: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            lines += _flat(value, f"{before}{name}.")
        elif isinstance(value, list | tuple):
            lines.append((f"{before}{name}", ", ".join(map(str, value)) or "none"))
        else:
            lines.append((f"{before}{name}", "none" if value is None or value == {} else str(value)))
    return lines


def _cells(rows: Rows | None) -> list[list[str]]:
    """Return rows as texts, the names first; empty without rows."""
    if not rows:
        return []
    names = list(dict.fromkeys(name for row in rows for name in row))
    texts = {True: "yes", False: "no", None: ""}
    lines = [[str(name).replace("_", " ") for name in names]]
    for row in rows:
        cells = [row.get(name) for name in names]
        lines.append(
            [
                texts[cell]
                if cell is None or isinstance(cell, bool)
                else f"{cell:.3f}"
                if isinstance(cell, float)
                else str(cell)
                for cell in cells
            ]
        )
    return lines


def _verdicts(sanity: SanityReport | None) -> list[list[str]]:
    """Return for each metric whether it passes its own test here and in the publication, the names first."""
    if sanity is None:
        return []
    texts = {True: "passes", False: "fails"}
    lines = [["metric", "here", "published", "weakest where"]]
    for metric, passes in sanity.verdicts().items():
        weakest = sanity.failures(metric)[:1]
        cases = [f"{row.test} labels, {row.neurons} neurons, {row.frequency:.3g} of the images" for row in weakest]
        lines.append([metric, texts[passes], _published(PUBLISHED.get(metric)), "".join(cases)])
    return lines


def _published(result: Published | None) -> str:
    """Return a published result in words, with the name that the metric has there."""
    if result is None:
        return "not tested"
    verdict = "passes" if result.passes else "fails"
    tests = f" {' and '.join(result.fails)} labels" if result.fails else ""
    return f"{verdict}{tests} (as {result.name})"
