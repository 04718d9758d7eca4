"""The one labelling pipeline: example sets, evidence, texts, the dataset's share, response, scores, ranking, labels.

`label_neurons`, the check of candidates, evaluation and the live service label through it. What a step computes is
remembered by the `Memory` that the caller passes; without one, nothing outlives a call.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, fields, replace
from functools import partial

import numpy as np

from csp_index.concurrency import go_on
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.embeddings import release
from csp_index.contrast.examples import Examples, gather_examples
from csp_index.contrast.selection import Selection
from csp_index.labelling import gather, scoring
from csp_index.labelling.candidates import CandidateTexts, Ownership
from csp_index.labelling.confidence import Confidence, bootstrap
from csp_index.labelling.cropped import with_crops
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.gather import dataset_response, image_totals, read_evidence, read_sums
from csp_index.labelling.label_values import STORED_NEIGHBOURS, ExampleSummary, Ranking, example_summary
from csp_index.labelling.linear.explanation import Explanation
from csp_index.labelling.linear.stored_statistics import statistics_key
from csp_index.labelling.memory import Memory, NoMemory
from csp_index.labelling.nulls.fit import LEAST_FIT, Sample, label_fit, read_sample, sampled_activations
from csp_index.labelling.probabilities.features import text_deviations
from csp_index.labelling.probabilities.labels import label_probability
from csp_index.labelling.request import KEPT, LabelRequest
from csp_index.labelling.response.dataset_sums import DatasetSums
from csp_index.labelling.response.stored_sums import sums_key
from csp_index.labelling.response.views import Response
from csp_index.labelling.scoring import Scored
from csp_index.labelling.ties import Ties, read_ties
from csp_index.ordering import leaders_of
from csp_index.records import ExampleOptions
from csp_index.records.weighted_labels import WeightedLabel
from csp_index.store.tables import Store
from csp_index.tensors import library
from csp_index.tensors.library import torch

_MANY = 256  # neurons; those who label fewer label others soon, and need the embeddings again


@dataclass(frozen=True, slots=True)
class ExampleEvidence:
    """Example sets of M neurons with the evidence they give, whatever the candidates: it has no texts."""

    examples: Examples
    evidence: Evidence

    @property
    def nbytes(self) -> int:
        """About how much memory the tensors take."""
        values = [getattr(record, part.name) for record in (self.examples, self.evidence) for part in fields(record)]
        return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


@dataclass(frozen=True, slots=True)
class NeuronScores:
    """The example sets of M neurons, the scores [M, C] that rest on them, and each neuron's label state [M].

    The score of a candidate that is another neuron's is -inf; `own` says whose they are, None that all are everybody's.
    `sums` [M] are the labels of a method that weighs several texts.
    """

    request: LabelRequest
    examples: Examples
    evidence: Evidence
    scored: Scored
    states: np.ndarray
    own: Ownership | None = None
    ties: Ties | None = None
    sums: tuple[WeightedLabel | None, ...] | None = None

    @property
    def available(self) -> torch.Tensor:
        """How many candidates each neuron has, [M]."""
        scores = self.scored.scores
        if self.own is None:
            return torch.full((len(scores),), scores.shape[1])
        return self.own.available(self.examples.neurons)

    def leaders(self, count: int) -> torch.Tensor:
        """Return the places of the best candidates [M, count] at most, best first; others' may stand last."""
        if self.own is not None:
            count = max(1, min(count, int(self.available.max())))
        return leaders_of(self.scored.scores, count)

    def confidence(self, leaders: torch.Tensor, check: Callable[[], None] = go_on) -> Confidence | None:
        """Return the confidence in the best candidates [M, L], or None where no resamples are requested.

        A neuron's only candidate always comes first, which says nothing: it has no rival to come before. None as well
        for a method that looks at all images alike: resampling the activating ones changes nothing of what it saw.
        """
        if self.request.scoring.bootstrap == 0 or self.request.formula.info.needs_correlation:
            return None
        scores, options = self.scored.scores, self.request.scoring
        result = bootstrap(self.request.method, self.evidence, options, scores, leaders, check)
        alone = self.available < 2
        share = result.share.masked_fill(alone[:, None], torch.nan)
        uncertain = result.uncertain | alone
        if self.ties is not None:
            uncertain |= torch.from_numpy(self.ties.doubtful)
        return replace(result, share=share, uncertain=uncertain)


def _none_stored(*_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The steps from neurons to labels over one store. Several threads may use it if its memory allows that.

    `stored` returns example sets with contrast that an earlier run stored for the same neurons and options, or None,
    and `explained` correlations that one stored, with -inf for the candidates that are not among those it kept.
    The memory serves selections without a pool: its keys do not name one.
    """

    store: Store
    context: ComputeContext = field(default_factory=ComputeContext)
    memory: Memory = field(default_factory=NoMemory)
    stored: Callable[[Selection, ExampleOptions], Examples | None] = _none_stored
    explained: Callable[[Selection, LabelRequest, CandidateTexts], Explanation | None] = _none_stored

    def evidence(
        self, selection: Selection, request: LabelRequest, activating: Examples | None = None
    ) -> ExampleEvidence:
        """Return the neurons' example sets with their evidence.

        They depend on the method, on `request.examples` and on `request.crop`, and on nothing else of the request.
        `activating` are the activating sets, where the caller has read them.
        """

        def make() -> ExampleEvidence:
            info = request.formula.info
            examples = self.stored(selection, request.examples) if info.needs_contrast else None
            if examples is None:
                examples = gather_examples(
                    self.store,
                    selection,
                    request.examples,
                    contrast=info.needs_contrast,
                    context=self.context,
                    activating=activating,
                    compared=STORED_NEIGHBOURS if request.formula.pooled else None,
                )
            evidence = read_evidence(
                self.store, selection, examples, with_mean=info.needs_mean, check=self.context.check
            )
            if request.crop:
                examples, evidence = with_crops(self.store, selection, examples, evidence, self.context)
            return ExampleEvidence(examples, evidence)

        return self._memory(selection).examples(_key(selection, request), make, lambda value: value.nbytes)

    def scores(
        self,
        selection: Selection,
        request: LabelRequest,
        texts: CandidateTexts,
        activating: Examples | None = None,
        best: int | None = None,
    ) -> NeuronScores:
        """Return the scores of all candidates for the selection's neurons, from the images of its pool; stores nothing.

        With `best`, only that many best ones of each neuron need be right; others may come out lower, never higher.
        Errors: LabelError, before anything is read, where the method needs the encoder's scale and there is none.
        """
        _ = request.dataset_scale  # refused before anything is read
        self.context.step("images of neurons")
        sets = self.evidence(selection, request, activating)
        examples, evidence = sets.examples, _with_texts(sets.evidence, request, texts)
        if len(selection.neurons) > _MANY:
            release(self.store)  # the scores of many neurons need the memory, and the next call may be long in coming
        self.context.step("all images")
        evidence = self._with_dataset(selection, request, texts, evidence, examples.images, best)
        explanation = self._explanation(selection, request, texts, evidence, examples.images)
        evidence = replace(evidence, explanation=explanation)
        self.context.check()
        scored = scoring.score(request.method, evidence, request.scoring)
        if texts.own is not None:
            scored = replace(scored, scores=texts.own.mask(scored.scores, examples.neurons))
        ties = read_ties(self.store, selection, examples)
        states = _states(request, examples, ties, texts.own)
        sums = None
        if explanation is not None and explanation.terms is not None:
            labelled = (states == "labelled").tolist()
            labels = explanation.terms.labels(texts.texts)
            sums = tuple(label if live else None for live, label in zip(labelled, labels, strict=True))
        return NeuronScores(request, examples, evidence, scored, states, texts.own, ties, sums)

    def ranking(
        self,
        selection: Selection,
        request: LabelRequest,
        texts: CandidateTexts,
        activating: Examples | None = None,
    ) -> Ranking:
        """Return the best candidates of each neuron, with the confidence in them; errors as `scores`."""
        count = max(KEPT, request.top)
        scores = self.scores(selection, request, texts, activating, count)
        best = scores.leaders(count)
        self.context.step("confidence")
        confidence = scores.confidence(best[:, :KEPT], self.context.check)
        fit, probability = None, None
        if confidence is not None and selection.pool is None:  # labels from a pool are only compared
            sample, sampled = self._sample(selection, request)
            fit = self._fit(selection, scores, best[:, 0], sample, sampled)
            if texts.own is None and not request.crop:  # what the calibration knows
                probability = label_probability(
                    request,
                    scores.evidence,
                    scores.scored.scores,
                    best[:, :KEPT],
                    confidence,
                    fit,
                    sample.embeddings,
                    sampled,
                    partial(self._deviations, selection, request, texts, scores.evidence.texts, sample),
                )
            fit = fit.masked_fill(confidence.uncertain, torch.nan)  # the first reason is enough
            confidence = replace(confidence, uncertain=confidence.uncertain | (fit < LEAST_FIT))
        return Ranking(
            selection,
            request,
            scores.examples,
            texts.texts,
            scores.scored.scores.gather(1, best),
            best,
            scores.states,
            scores.available.numpy(),
            confidence,
            scores.scored.vectors,
            scores.ties,
            probability,
            fit,
            scores.sums,
        )

    def summary(self, ranking: Ranking) -> ExampleSummary:
        """Return what the labels of a ranking say of their example sets."""
        return self._memory(ranking.selection).examples(
            ("summary", *_key(ranking.selection, ranking.request)),
            lambda: example_summary(ranking.request, ranking.examples),
            lambda value: value.nbytes,
        )

    def _with_dataset(
        self,
        selection: Selection,
        request: LabelRequest,
        texts: CandidateTexts,
        evidence: Evidence,
        images: int,
        best: int | None,
    ) -> Evidence:
        """Return the evidence with what the method sees of the whole dataset, whatever the neurons, and of theirs."""
        scale = request.dataset_scale
        if scale is None:
            return evidence
        key = sums_key(selection.source, texts.key, request.scoring.renormalise_text, scale)

        def make() -> DatasetSums:
            context = self.context
            return read_sums(
                self.store, selection, images, evidence.texts, scale, key, keep=context.keep, check=context.check
            )

        sums = self._memory(selection).dataset(("sums", selection.source.name, key, images), make)
        evidence = replace(evidence, label_share=sums.label_share)
        if request.formula.pooled:
            evidence = replace(evidence, totals=image_totals(selection, sums, evidence, scale))
        if not request.formula.info.needs_response:
            return evidence
        return replace(evidence, response=self._response(selection, request, texts, evidence, sums, images, best))

    def _response(
        self,
        selection: Selection,
        request: LabelRequest,
        texts: CandidateTexts,
        evidence: Evidence,
        sums: DatasetSums,
        images: int,
        best: int | None,
    ) -> Response:
        def make() -> Response:
            check = self.context.check
            return dataset_response(self.store, selection, request, images, evidence, sums, texts.own, check, best)

        formula = request.method, replace(request.scoring, bootstrap=0)
        key = ("response", *_key(selection, request), texts.key, formula, best)
        return self._memory(selection).examples(key, make, lambda response: response.nbytes)

    def _sample(self, selection: Selection, request: LabelRequest) -> tuple[Sample, torch.Tensor]:
        """Return a sample of all images, and the neurons' activations [M, R] on it."""
        sample = read_sample(self.store, selection)
        sampled = self.memory.examples(
            ("sampled", *_key(selection, request)),
            lambda: sampled_activations(self.store, selection, sample),
            lambda values: values.nbytes,
        )
        return sample, sampled

    def _deviations(
        self,
        selection: Selection,
        request: LabelRequest,
        texts: CandidateTexts,
        embeddings: torch.Tensor,
        sample: Sample,
    ) -> torch.Tensor:
        """Return the texts' deviations [C] over a sample, remembered for the vocabulary that was used last."""
        vocabulary = texts.key, request.scoring.renormalise_text, selection.images(self.store), library.name()
        key = "text deviations", selection.target.what
        make = partial(text_deviations, embeddings, sample.embeddings)
        return self.store.memo(selection.source.table, key, make, variant=vocabulary)

    def _fit(
        self, selection: Selection, scores: NeuronScores, best: torch.Tensor, sample: Sample, sampled: torch.Tensor
    ) -> torch.Tensor:
        """Return the fit [M] of the best candidates."""
        means = torch.from_numpy(selection.statistics(self.store)["mean"].to_numpy().astype(np.float32))
        return label_fit(scores.evidence, scores.evidence.texts[best], means, sample, sampled, self.context.check)

    def _explanation(
        self, selection: Selection, request: LabelRequest, texts: CandidateTexts, evidence: Evidence, images: int
    ) -> Explanation | None:
        info, context, renormalise = request.formula.info, self.context, request.scoring.renormalise_text
        if not info.needs_correlation:
            return None
        if (stored := self.explained(selection, request, texts)) is not None:
            return stored
        source, memory = selection.source, self._memory(selection)
        key = statistics_key(source, texts.key, renormalise)
        statistics = memory.dataset(
            ("statistics", source.name, key, images),
            lambda: gather.read_statistics(
                self.store, selection, images, evidence.texts, key, keep=context.keep, check=context.check
            ),
        )
        neurons = selection.target.key, tuple(selection.neurons.tolist())  # whatever their example sets are
        return memory.dataset(
            ("explanation", source.name, *neurons, key, request.method, request.scoring.seed, images),
            lambda: gather.dataset_explanation(
                self.store,
                selection,
                images,
                evidence,
                statistics,
                with_terms=info.is_sum,
                seed=request.scoring.seed,
                own=texts.own,
                check=context.check,
            ),
        )

    def _memory(self, selection: Selection) -> Memory:
        return self.memory if selection.pool is None else NoMemory()


def _key(selection: Selection, request: LabelRequest) -> tuple[Hashable, ...]:
    """Return what a neuron's example sets depend on."""
    info, neurons = request.formula.info, tuple(selection.neurons.tolist())
    sets = request.examples, request.crop, info.needs_contrast, info.needs_mean, request.formula.pooled
    return selection.source.name, selection.target.key, neurons, *sets


def _with_texts(evidence: Evidence, request: LabelRequest, texts: CandidateTexts) -> Evidence:
    """Return the evidence with the candidates' embeddings as the request needs them: at unit length or as they are."""
    if not request.scoring.renormalise_text:
        return replace(evidence, texts=texts.embeddings, empty_text=texts.empty)
    empty = None if texts.empty is None else torch.nn.functional.normalize(texts.empty, dim=0)
    return replace(evidence, texts=texts.directions, empty_text=empty)


def _states(request: LabelRequest, examples: Examples, ties: Ties, own: Ownership | None) -> np.ndarray:
    """Return the label state [M] of neurons with these example sets and candidates."""
    missing = examples.without_contrast & request.formula.info.needs_contrast
    states: np.ndarray = np.where(examples.dead, "dead", np.where(missing, "no-contrast", "labelled"))
    if own is not None:
        none = (own.available(examples.neurons) == 0).numpy()
        states = np.where(none & (states != "dead"), "no-candidates", states)
    states = np.where(ties.constant & (states != "dead"), "constant", states)
    return states
