"""What SQL sees of the store: views over its tables, and the statements behind exports."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Final

import pyarrow as pa

from csp_index.labelling.label_rule import LabelRule, read_rule
from csp_index.labelling.review.pinned import pinned_table
from csp_index.labelling.review.words import OF_NEURON, PINNED
from csp_index.query.map_views import map_views
from csp_index.store import catalog, column_tables, schema, study_tables
from csp_index.store.study_tables import NOTES
from csp_index.store.tables import Store

ALL: Final = "all"  # in place of a method: the newest label of every method
_OF_BEST = """LEFT JOIN (
            SELECT run_id, model, layer, neuron, 0 AS rank, probability FROM label_probabilities
        ) USING (run_id, model, layer, neuron, rank)
        LEFT JOIN (
            SELECT run_id, model, layer, neuron, 0 AS rank, percentile AS null_percentile FROM label_nulls
        ) USING (run_id, model, layer, neuron, rank)"""
_EFFECTS = """SELECT model || '/' || layer || '/' || neuron AS address, * EXCLUDE (class_name), class_name
    FROM (
        SELECT run_id, settings_hash, model, layer, neuron, "by", head, images, checked, difference, largest, "value",
            unnest(range(len(effects))) AS class_index, unnest(effects) AS effect, unnest(low) AS low,
            unnest(high) AS high, unnest(on_class) AS on_class, unnest(elsewhere) AS elsewhere
        FROM {}
    ) LEFT JOIN (
        SELECT settings_hash, model, layer, class_index, class_name FROM effect_classes
    ) USING (settings_hash, model, layer, class_index)"""
_OF_SUBJECTS = f"""SELECT CASE WHEN starts_with(subject, '{OF_NEURON}') THEN substr(subject, {len(OF_NEURON) + 1}) END
    AS address, * FROM {{}}"""
_LABEL = "method, state, rank, text, score, score_low, score_high, confidence, probability, null_percentile, uncertain"
_EVOLUTIONS = """
    WITH steps AS (
        SELECT *, step > 0 AND label IS DISTINCT FROM lag(label) OVER path AS changed FROM evolution
        WINDOW path AS (PARTITION BY network, layer, neuron ORDER BY step)
    )
    SELECT network, layer, neuron, list(label ORDER BY step) AS labels,
        coalesce(arg_max(checkpoint, step) FILTER (WHERE changed), arg_min(checkpoint, step)) AS settled,
        count(*) FILTER (WHERE changed) AS changes, sum(1 - cosine) AS drift,
        arg_max(checkpoint, step) FILTER (WHERE event = 'born') AS born,
        arg_max(checkpoint, step) FILTER (WHERE event = 'died') AS died
    FROM steps GROUP BY network, layer, neuron
"""
_ADDRESSED = "SELECT model || '/' || layer || '/' || neuron AS address, * FROM {}"


class Views(Mapping[str, Any]):
    """What SQL sees, by name, opened when it is taken: a dataset, an Arrow table, or None for a view over others."""

    def __init__(self, openers: Mapping[str, Callable[[], Any]]) -> None:
        self._openers = openers

    def __getitem__(self, name: str) -> Any:
        return self._openers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._openers)

    def __len__(self) -> int:
        return len(self._openers)


def sql_views(store: Store) -> tuple[Views, dict[str, str]]:
    """Return what SQL sees, by name, and how: every fixed table, embeddings, and `texts` over all encoders.

    Rows whose shard was never marked do not exist, and neurons come with their address. A view that is None is defined
    over the others. Nothing is read of a view before it is taken.
    """
    names = set(store.table_names())
    openers: dict[str, Callable[[], Any]] = {}
    definitions = dict.fromkeys((schema.NEURONS, *schema.OF_NEURONS, "derived"), _ADDRESSED)
    for name in schema.fixed_tables():
        openers[name] = partial(store.dataset if name in names else _no_rows, name)
    # One row per neuron and class; the classes come first, because the view is over them, too.
    openers[study_tables.EFFECTS] = openers.pop(study_tables.EFFECTS)
    definitions[study_tables.EFFECTS] = _EFFECTS
    definitions[schema.IMAGES] = _committed(store, schema.IMAGES)
    definitions[NOTES] = _OF_SUBJECTS
    openers[PINNED] = partial(pinned_table, store)
    encoders = catalog.encoders(store)
    for info in encoders:
        if info.table in names:
            name = "embeddings" if len(encoders) == 1 else info.table
            openers[name] = partial(store.dataset, info.table)
            definitions[name] = _committed(store, info.what)
    openers["derived"] = partial(_derived, store, [info.name for info in encoders])
    openers["texts"] = partial(_texts, store, [info.name for info in encoders])
    of_maps, defined = map_views(store, names)
    openers |= of_maps
    definitions |= defined
    openers["neuron_labels"] = _over_others
    definitions["neuron_labels"] = _neuron_labels(read_rule(store))
    openers["evolutions"] = _over_others
    definitions["evolutions"] = _EVOLUTIONS
    return Views(openers), definitions


def _no_rows(name: str) -> pa.Table:
    return schema.table_schema(name).empty_table()


def _over_others() -> None:
    """Return what stands for a view over other views."""


def _committed(store: Store, what: str) -> str:
    return f"SELECT * FROM {{}} WHERE shard < {len(catalog.shards(store, what))}"


def _derived(store: Store, encoders: list[str]) -> Any:
    """Return the derived images; of several encoders in one table without embeddings and pictures."""
    tables = [(name, table) for name in encoders if store.has(table := column_tables.derived_table(name))]
    if len(encoders) == 1 and tables:
        return store.dataset(tables[0][1])
    columns = [
        name for name in column_tables.derived_schema(1).names if name not in (column_tables.EMBEDDING, "picture")
    ]
    parts = []
    for name, table in tables:
        rows = store.read(table, columns)
        parts.append(rows.append_column("encoder", pa.array([name] * rows.num_rows)))
    if parts:
        return pa.concat_tables(parts)
    return column_tables.derived_schema(1).empty_table().select(columns)


def _texts(store: Store, encoders: list[str]) -> pa.Table:
    parts = []
    for name in encoders:
        table = column_tables.texts_table(name)
        if store.has(table):
            rows = store.read(table, ["vocabulary", "template_set", "position", "text"], "text != ''")
            parts.append(rows.append_column("encoder", pa.array([name] * rows.num_rows)))
    if parts:
        return pa.concat_tables(parts)
    empty = column_tables.texts_schema(1).empty_table().select(["vocabulary", "template_set", "position", "text"])
    return empty.append_column("encoder", pa.array([], pa.string()))


def labels_statement(layer: str | None, method: str | None, top: int) -> str:
    """Return the statement that selects labels: of each neuron the one shown, the newest by `method`, or by "all".

    The method `pinned` selects the names that readers gave; "all" has them, too.
    """
    parts = [] if method == PINNED else [_computed(layer, method, top)]
    parts += [_named(layer)] if method in (None, ALL, PINNED) else []
    return f"""
        SELECT address AS neuron, {_LABEL}, note, run_id FROM ({" UNION ALL ".join(parts)})
        ORDER BY model, layer, number, method, rank
    """


def _computed(layer: str | None, method: str | None, top: int) -> str:
    """Return the SELECT of labels that methods made; without a method of those shown, where no reader named it."""
    conditions = [f"rank < {top}"]
    conditions += [f"model || '/' || layer = {catalog.sql_text(layer)}"] if layer else []
    conditions += [f"method = {catalog.sql_text(method)}"] if method not in (None, ALL) else []
    join = "SEMI JOIN neuron_labels USING (model, layer, neuron, run_id) ANTI JOIN pinned USING (model, layer, neuron)"
    newest = "QUALIFY run_id = max(run_id) OVER (PARTITION BY model, layer, neuron, method)"
    return f"""(
        SELECT model, layer, neuron AS number, address, {_LABEL}, note, run_id
        FROM labels {join if method is None else ""} {_OF_BEST}
        WHERE {" AND ".join(conditions)}
        {"" if method is None else newest}
    )"""


def _named(layer: str | None) -> str:
    """Return the SELECT of the names that readers gave, as labels of rank 0."""
    where = f"AND model || '/' || layer = {catalog.sql_text(layer)}" if layer else ""
    return f"""(
        SELECT model, layer, neuron AS number, address, {_LABEL.replace("rank", "0 AS rank")}, note, run_id
        FROM neuron_labels WHERE method = {catalog.sql_text(PINNED)} {where}
    )"""


def _neuron_labels(rule: LabelRule) -> str:
    """Return the SELECT of the view with one row per neuron: the label that the rule shows, null where it has none.

    A name that a reader gave has no scores; its run is that of the label that would be shown without it.
    """
    scores = ("score", "score_low", "score_high", "confidence", "probability", "null_percentile", "uncertain")
    return f"""
        WITH shown AS (
            SELECT * FROM labels {_OF_BEST} WHERE rank <= 0 AND {rule.sql()} >= 0
            QUALIFY row_number() OVER (PARTITION BY model, layer, neuron ORDER BY {rule.sql()} DESC, run_id DESC) = 1
        )
        SELECT neurons.address, model, layer, neuron,
            CASE WHEN named.text IS NOT NULL THEN 'labelled' ELSE coalesce(shown.state, 'unlabelled') END AS state,
            shown.run_id,
            CASE WHEN named.text IS NOT NULL THEN '{PINNED}' ELSE shown.method END AS method,
            coalesce(named.text, shown.text) AS text,
            {", ".join(f"CASE WHEN named.text IS NULL THEN shown.{name} END AS {name}" for name in scores)},
            CASE WHEN named.text IS NULL THEN shown.note WHEN shown.method IS NULL THEN named.note
                ELSE concat(named.note, '; ', shown.method, ': ', coalesce(shown.text, shown.state)) END AS note
        FROM neurons LEFT JOIN shown USING (model, layer, neuron) LEFT JOIN {PINNED} AS named
            USING (model, layer, neuron)
    """
