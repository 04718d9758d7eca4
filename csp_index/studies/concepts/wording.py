"""What an index says of a word, in words. Pure functions of values."""

from __future__ import annotations

from collections.abc import Sequence

from csp_index.studies.concepts.concept import ConceptNeuron, FoundNeurons
from csp_index.studies.concepts.known_classes import KnownClass


def sentence(word: str, found: FoundNeurons) -> str:
    """Return what holds of a word: how many neurons are labeled so, in how many layers, and what the vectors say."""
    name, layers = f"“{word}”", [one for one in found.layers if one.labeled]
    labeled, uncertain = (sum(getattr(one, kind) for one in layers) for kind in ("labeled", "uncertain"))
    where = f" in {len(layers)} layers" if len(layers) > 1 else ""
    doubt = "" if not uncertain else f", {'all' if uncertain == labeled else f'{uncertain:,} of them'} uncertain"
    doubt = ", which is uncertain" if uncertain == labeled == 1 else doubt
    told = [f"{_neurons(labeled)}{where} {_are(labeled)} labeled {name}{doubt}"]
    parts, candidates = (sum(getattr(one, kind) for one in found.layers) for kind in ("parts", "candidates"))
    if parts:
        told.append(f"{parts:,} {'has' if parts == 1 else 'have'} it in a longer label")
    if candidates:
        told.append(f"for {candidates:,} it is another candidate")
    return f"{'; '.join(told)}. {_of_vectors(found)}"


def _neurons(count: int) -> str:
    return "No neuron" if count == 0 else f"{count:,} neuron{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count < 2 else "are"


def _of_vectors(found: FoundNeurons) -> str:
    """Return what the concept vectors say: how many stand out, or that none does."""
    if not found.near:
        return "How near concept vectors are is not known."
    first = found.near[0]
    nearest = f"{first.neuron} (cosine {first.similarity:.2f})"
    counts = [one.standing_out for one in found.layers if one.standing_out is not None]
    if not counts:
        return f"By concept vector {nearest} is nearest, of too few neurons to tell it from chance."
    count = sum(counts)
    if not count:
        return f"By concept vector no neuron answers to it more than to chance words: {nearest} is nearest."
    if count == 1:
        return f"By concept vector {nearest} stands out."
    return f"By concept vector {count:,} stand out, {nearest} first."


def ways_of(one: ConceptNeuron) -> str:
    """Return what a neuron has to do with a word: the cosine, its place as a candidate, the AUROC."""
    parts = []
    if one.similarity is not None:
        chance = "" if one.stands_out else ", within chance"
        parts.append(f"cosine {one.similarity:.2f}{chance}")
    if one.candidate_rank is not None:
        score = "" if one.candidate_score is None else f", score {one.candidate_score:.3f}"
        parts.append(f"candidate {one.candidate_rank + 1}{score}")
    if one.auroc is not None:
        parts.append(f"AUROC {one.auroc:.2f} for {one.auroc_by} = {one.auroc_class}")
    return "; ".join(parts) or "nothing else is stored"


def also_line(words: Sequence[tuple[str, int]], by: str) -> str:
    """Return which other labels are near to a word, (text, neurons) each; nothing for none.

    >>> also_line([("striped", 3), ("zebra", 1)], "meaning")
    'also: striped (3 neurons), zebra (1 neuron)'
    """
    if not words:
        return ""
    listed = ", ".join(f"{text} ({count:,} neuron{'' if count == 1 else 's'})" for text, count in words)
    return f"{'also' if by == 'meaning' else 'labels spelled like it'}: {listed}"


def class_lines(classes: Sequence[KnownClass]) -> list[str]:
    """Return for each class of images that a word names how many neurons tell it, and which best."""
    lines = []
    for one in classes:
        telling = int(one.tells.sum())
        what = f"{one.layer}: {telling:,} neuron{'' if telling == 1 else 's'} {'tells' if telling == 1 else 'tell'} it"
        lines.append(f"metadata know it: {one.by} = {one.class_name}, {one.images:,} images; {what} better than chance")
    return lines


def uncompared_line(values: Sequence[tuple[str, str, int]]) -> str:
    """Return that metadata know a word, (column, value, images) each, but no neuron was compared; nothing for none.

    >>> uncompared_line([("kind", "star", 1)])
    'metadata know it, but no neuron was compared with it: kind = star (1 image); csp-index associations does that'
    """
    if not values:
        return ""
    listed = ", ".join(f"{by} = {name} ({count:,} image{'' if count == 1 else 's'})" for by, name, count in values)
    return f"metadata know it, but no neuron was compared with it: {listed}; csp-index associations does that"
