"""How many pictures a rating needs: the error of a correlation from few verdicts, drawn by importance or uniformly.

    python scripts/benchmarks/rated_pictures.py [--pictures 20]

Drawn neurons fire on some share of 5,000 pictures; their label is true of 90 % of these pictures and of 2 % of the
others, and people say so. Prints, for each share, the root mean square error of the estimate against the correlation
over all pictures, and the draws in which it has no value: no picture that the label is true of, or none that it is not.
"""

from __future__ import annotations

import argparse

import numpy as np

from csp_index.evaluation.metrics.agreement import verdict_correlation
from csp_index.studies.reviewing.rated_pictures import draw_pictures

SIZE, DRAWS = 5000, 400
FIRING = (0.01, 0.02, 0.05, 0.2)


def main() -> None:
    """Print one line for each share of pictures on which a neuron fires, and each way to draw."""
    parser = argparse.ArgumentParser(description="Compare ways to draw the pictures that people rate.")
    parser.add_argument("--pictures", type=int, default=20, help="pictures of each label")
    count = parser.parse_args().pictures
    for share in FIRING:
        for draw in ("importance", "uniform"):
            errors, undefined = [], 0
            for seed in range(DRAWS):
                rng = np.random.default_rng(seed)
                fires = rng.random(SIZE) < share
                activations = np.where(fires, rng.gamma(2.0, 1.0, SIZE), 0.0)
                verdicts = (rng.random(SIZE) < np.where(fires, 0.9, 0.02)).astype(float)
                whole = verdict_correlation(verdicts, activations, np.ones(SIZE))
                drawn = draw_pictures(activations, count, draw, str(seed))
                value = verdict_correlation(verdicts[drawn.images], drawn.activations, drawn.weights)
                undefined += int(np.isnan(value))
                errors += [] if np.isnan(value) else [value - whole]
            error = f"{np.sqrt(np.mean(np.square(errors))):.2f}" if errors else "-"
            print(f"fires on {share:.0%}, {draw}: error {error}, no value in {undefined / DRAWS:.0%} of {DRAWS} draws")


if __name__ == "__main__":
    main()
