"""How many neurons of untrained networks get a sure label, and how many right labels the fit keeps.

python scripts/nulls/sure_labels.py csp-demo/biased.db [--seeds 1-3]

adds untrained, redrawn and centered networks to a demo's index, unless they are there, and prints a row per method:
the share of their neurons whose label is stable, by resamples alone and with the fit of `labelling.nulls.fit`, and the
planted neurons whose right label is stable, alone and with the fit. Ties do not count: the demo's neurons have a
ceiling, and every label of such a neuron rests on the order of the images.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np

from csp_index import open_index
from csp_index.contrast.selection import Selection
from csp_index.demo.network import CONCEPT_LAYER, NETWORK_WEIGHTS, PLANTED
from csp_index.demo.world import VOCABULARY
from csp_index.index import Index
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.nulls.fit import LEAST_FIT, label_fit, read_sample, sampled_activations
from csp_index.labelling.pipeline import Pipeline
from csp_index.labelling.request import make_request
from csp_index.labelling.texts.candidate_names import plain_candidates
from csp_index.models.index_models import NetworkSource
from csp_index.store import catalog

SPEC = "python:csp_index.demo.network:planted_cnn"
METHODS = (
    "csp",
    "semanticlens",
    "mean-centred",
    "pmi",
    "contrastive-pmi",
    "consensus",
    "firing-contrast",
    "clip-dissect",
)


def add_nulls(index: Index, seeds: list[int]) -> list[str]:
    """Index the networks that have learned nothing; return their layers."""
    chosen = {"untrained": None} | {f"redrawn-{seed}": f"redrawn:{seed}" for seed in seeds}
    chosen |= {f"centered-{seed}": f"centered:{seed}:{NETWORK_WEIGHTS}" for seed in seeds}
    known = {str(info.key) for info in catalog.layers(index.store)}
    layers = {f"{name}/{CONCEPT_LAYER}": (name, weights) for name, weights in chosen.items()}
    missing = [pair for layer, pair in layers.items() if layer not in known]
    networks = [NetworkSource(SPEC, (CONCEPT_LAYER,), weights=weights, name=name) for name, weights in missing]
    if networks:
        index.add_images(None, networks=networks)
    return list(layers)


def stable_labels(
    index: Index, layer: str, method: str, texts: CandidateTexts
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the best text of each neuron [M], whether it is stable, and whether it is stable and fits."""
    ((target, numbers),) = index.resolve(layer)
    selection = Selection(catalog.encoder(index.store), target, numbers)
    scores = Pipeline(index.store).scores(selection, make_request(method, selection.source, 5, {}), texts)
    scores = replace(scores, ties=None)
    best = scores.leaders(20)
    confidence = scores.confidence(best)
    if confidence is None:
        raise SystemExit("no resamples are requested")
    stable = (scores.states == "labelled") & ~confidence.uncertain.numpy()
    sample = read_sample(index.store, selection)
    means = scores.evidence.texts.new_tensor(selection.statistics(index.store)["mean"].to_pylist())
    sampled = sampled_activations(index.store, selection, sample)
    fit = label_fit(scores.evidence, scores.evidence.texts[best[:, 0]], means, sample, sampled)
    words = [texts.texts[place] for place in best[:, 0].tolist()]
    return words, stable, stable & ~(fit < LEAST_FIT).numpy()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("db", help="the index of a demo, such as csp-demo/biased.db")
    parser.add_argument("--seeds", default="1-3", help="of the redrawn networks, FIRST-LAST")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    index = open_index(options.db)
    nulls = add_nulls(index, list(range(int(first), int(last or first) + 1)))
    space = index._text_space(catalog.encoder(index.store), "none", keep=False)
    texts = plain_candidates(space, list(VOCABULARY))[0]()
    truth = np.array([planted.concept for planted in PLANTED])
    print("| method | untrained, stable: mean (highest) | and fits | right and stable, trained | and fits |")
    print("|---|---|---|---|---|")
    for method in METHODS:
        shares = np.array([[x.mean() for x in stable_labels(index, one, method, texts)[1:]] for one in nulls])
        words, stable, fitting = stable_labels(index, f"cnn/{CONCEPT_LAYER}", method, texts)
        right = (np.array(words) == truth) & (truth != "")
        cells = [f"{column.mean():.3f} ({column.max():.3f})" for column in shares.T]
        cells += [str(int((right & some).sum())) for some in (stable, fitting)]
        print(f"| {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
