"""Which of a neuron's labels is *the* label: one rule for the command line, Python, pages, exports and SQL.

In this order: the name that a reader gave (`labelling.review.pinned`), the label by the index's preferred method, the
label by the recommended method, the newest label by any other method. Labels by a control are shown only to those who
name the control. Of one method the newest counts: the run that computed it last, not the request that last read it.
Free of torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from csp_index.errors import SettingError
from csp_index.labelling.elsewhere.records import check_stored_method, imported_names
from csp_index.labelling.methods import RECOMMENDED, controls
from csp_index.store import schema
from csp_index.store.catalog import sql_text
from csp_index.store.runs import record_run
from csp_index.store.stored_json import read_object
from csp_index.store.tables import Store

_COMMAND: Final = "prefer"  # the runs that set the preferred method; the last one counts
_CONTROL, _OTHER, _FIRST, _PREFERRED = range(-1, 3)

T = TypeVar("T")
_METHOD = re.compile(r"[\w.-]+")  # a stored preference that is no name of a method is none


@dataclass(frozen=True, slots=True)
class LabelRule:
    """The order of methods, given the one that the index prefers (None: it has no preference)."""

    preferred: str | None = None

    def rank(self, method: str) -> int:
        """Return the place of a method: the label of the highest one is shown, none below 0.

        >>> rule = LabelRule("csp")
        >>> [rule.rank(name) for name in ("random-label", "pmi", "firing-contrast", "csp")]
        [-1, 0, 1, 2]
        """
        return self._ranks().get(method, _OTHER)

    def choose(self, labels: Iterable[tuple[str, str, T]]) -> T | None:
        """Return the third value of the (method, run id, value) that is shown, None without any."""
        candidates = [label for label in labels if self.rank(label[0]) >= 0]
        best = max(candidates, key=lambda label: (self.rank(label[0]), label[1]), default=None)
        return None if best is None else best[2]

    def sql(self) -> str:
        """Return the SQL expression of a method's rank, over a column `method`."""
        cases = " ".join(f"WHEN {sql_text(name)} THEN {rank}" for name, rank in self._ranks().items())
        return f"CASE method {cases} ELSE {_OTHER} END"

    def _ranks(self) -> dict[str, int]:
        ranks = {RECOMMENDED: _FIRST} | dict.fromkeys(controls(), _CONTROL)
        return ranks if self.preferred is None else ranks | {self.preferred: _PREFERRED}


def read_rule(store: Store) -> LabelRule:
    """Return the rule of an index, as its last `prefer` left it."""
    rows = store.read(schema.RUNS, ["run_id", "settings"], f"command = '{_COMMAND}' AND state = 'done'").to_pylist()
    last = max(rows, key=lambda row: str(row["run_id"]), default=None)
    method = read_object(last["settings"], schema.RUNS, "settings").get("method") if last else None
    return LabelRule(method if isinstance(method, str) and _METHOD.fullmatch(method) else None)


def preferred_method(store: Store) -> str | None:
    """Return the index's preferred method if it can label, None if it prefers imported labels, which are only read."""
    preferred = read_rule(store).preferred
    return None if preferred is not None and preferred in imported_names(store) else preferred


def prefer(store: Store, method: str | None) -> None:
    """Make a method's labels those that are shown; None takes that back. Errors: LabelError, SettingError."""
    if method is not None and check_stored_method(store, method) in controls():
        raise SettingError(
            f"method {method} is a control, whose labels are shown only by its name: prefer another, for example "
            f"{RECOMMENDED}"
        )
    with store.write_lock(), record_run(store, _COMMAND, {"method": method}, {}):
        pass  # the record is the setting
