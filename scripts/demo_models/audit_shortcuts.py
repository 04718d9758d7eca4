"""Audit classifiers with planted shortcuts, and such without: is the planted one first, is nothing found without?

    python scripts/demo_models/audit_shortcuts.py OUT --seeds 10 11 12 [--kinds border mark background none]

OUT receives a folder per classifier. The table has a row for each: how often the classifier is right, on images of its
set and where the shortcut is broken, of all classes and of the leaked one; the place of the planted shortcut among the
findings; the score of the first finding. Some two minutes each on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from csp_index.demo.auditing import ShortcutAudit, audit_shortcut
from csp_index.demo.shortcuts import KINDS


def main() -> None:
    """Train, index, audit, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    arguments = parser.parse_args()
    print("| kind | seed | leaked class | right | broken | leaked | broken | place | first finding | right |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    results = []
    for kind in arguments.kinds:
        for seed in arguments.seeds:
            result = audit_shortcut(arguments.out / f"{kind}-{seed}", kind, seed, lambda line: None)
            results.append(result)
            print(_row(result), flush=True)
    print(f"{sum(result.right for result in results)} of {len(results)} as they should be")


def _row(result: ShortcutAudit) -> str:
    shares = result.accuracies
    first = result.audit.findings[:1]
    found = f"{first[0].kind}: {first[0].subject}, {first[0].class_name} ({result.score:.2f})" if first else "none"
    numbers = [f"{share:.2f}" for share in (shares.usual, shares.broken, shares.leaked, shares.leaked_broken)]
    cells = [result.kind, result.seed, result.leaked or "-", *numbers, result.place or "-", found, result.right]
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
