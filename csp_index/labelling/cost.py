"""What a request for labels costs, counted from its options alone: before anything is read or computed."""

from __future__ import annotations

from csp_index.errors import SettingError
from csp_index.labelling.request import LabelRequest

_RESAMPLE = 50  # comparisons that take as long as one image of one resample, measured with 64 dimensions


def label_cost(request: LabelRequest, neurons: int, candidates: int) -> int:
    """Return the cost of labels in comparisons of an image with a candidate; passes over all images are not counted.

    neurons x images of each x (candidates + 50 x resamples); the images are the activating ones with their contrastive
    ones. To choose contrastive images that serve a neuron only once takes a step for each pair of them.
    """
    row, options = request.formula, request.examples
    partners = options.neighbours * len(options.kinds) if row.info.needs_contrast else 0
    images = options.examples * (1 + partners)
    resamples = request.scoring.bootstrap
    alone = row.alone or row.vector is not None
    each = candidates + _RESAMPLE * resamples if alone else candidates * (1 + resamples)
    choosing = 0 if options.reuse else (options.examples * partners) ** 3 // 4
    return neurons * (images * each + choosing)


def label_products(
    request: LabelRequest, neurons: int, images: int, candidates: int, width: int, listed: bool = False
) -> int:
    """Return about how many products of two numbers the scores of labels take, from embeddings of `width` numbers.

    `listed`: the nearest images of the activating ones are read from stored lists.
    """
    info = request.formula.info
    whole = info.needs_response or info.needs_correlation or request.dataset_scale is not None
    compared = min(neurons * request.examples.examples, images) * (info.needs_contrast and not listed)
    return width * (images * (compared + candidates * whole) + neurons * candidates)


def check_cost(request: LabelRequest, neurons: int, candidates: int, most: int) -> None:
    """Raise SettingError if a request costs more than `most`, with what to lower."""
    cost = label_cost(request, neurons, candidates)
    if cost > most:
        options = request.examples
        raise SettingError(
            f"the question costs {cost:,} comparisons ({neurons} neurons, {options.examples} examples, "
            f"{options.neighbours} neighbours, {candidates:,} candidates, {request.scoring.bootstrap} resamples): "
            f"expected at most {most:,} (serve_label_cost); lower neurons, examples or neighbours"
        )
