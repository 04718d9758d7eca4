"""Run the pair test on the demo's network: does a label name what moves its neuron, or what comes along with it?

    python scripts/demo_pairs.py OUT [--count 20] [--seed 0]

OUT receives the biased probing set, the pairs (`csp_index.demo.pairs`), an index of both and the truth. The methods
choose their labels on probing images alone. The table has a row per method: agreement with the truth, and the means of
pair-right and pair-gain with their 95 % intervals over neurons.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from csp_index import EvaluationOptions
from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS
from csp_index.demo.pairs import write_pairs
from csp_index.demo.run import LAYER, make_index, write_truth
from csp_index.demo.world import VOCABULARY
from csp_index.evaluation.options import parse_methods
from csp_index.evaluation.report.summary import summarise
from csp_index.models.index_models import NetworkSource

METHODS = ("csp", "semanticlens", "pmi", "contrastive-pmi", "consensus", "random-label")
METRICS = ("agreement-exact", "pair-right", "pair-gain")


def main() -> None:
    """Write the images, index them, evaluate, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=20, help="pairs for each planted concept")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    out: Path = arguments.out
    index = make_index(out, "biased", arguments.seed, print)
    table = write_pairs(out / "images-pairs", arguments.count, arguments.seed)
    write_truth(out / "truth.csv")
    network = NetworkSource(
        "python:csp_index.demo.network:planted_cnn", (CONCEPT_LAYER,), weights=str(NETWORK_WEIGHTS), name="cnn"
    )
    index.add_images(table.parent, encoders=[f"open_clip:{CLIP_FOLDER}"], networks=[network])
    options = EvaluationOptions(methods=parse_methods(METHODS), truth=out / "truth.csv", pairs=table)
    evaluation = index.evaluate(LAYER, options, vocabulary=list(VOCABULARY), templates="none")
    rows = {(row["method"], row["metric"], row["kind"]): row for row in summarise(evaluation).to_pylist()}
    kinds = [kind for kind in dict.fromkeys(kind for *_, kind in rows) if kind not in ("all", "")]
    print("| method | " + " | ".join(f"{metric}, {kind}" for kind in kinds for metric in METRICS) + " |")
    print("| --- |" + " --- |" * (len(kinds) * len(METRICS)))
    for method in METHODS:
        cells = [_cell(rows.get((method, metric, kind))) for kind in kinds for metric in METRICS]
        print(f"| {method} | " + " | ".join(cells) + " |")
    for part, reason in evaluation.skipped.items():
        print(f"not evaluated: {part}: {reason}")


def _cell(row: dict[str, object] | None) -> str:
    """Return a mean with its interval and the number of neurons."""
    if row is None or row["mean"] is None:
        return "-"
    return f"{row['mean']:.2f} ({row['low']:.2f} to {row['high']:.2f}; {row['neurons']})"


if __name__ == "__main__":
    main()
