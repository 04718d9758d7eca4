"""Index: the one object a user holds. Each method is a few lines that call the rooms below."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

from csp_index import keywords
from csp_index.concurrency import unseen
from csp_index.contrast.selection import Selection
from csp_index.errors import ArrayError, EvaluationError
from csp_index.evaluation.evaluation import Evaluation
from csp_index.labelling.elsewhere.records import imported_names
from csp_index.labelling.elsewhere.stored_imports import read_imported
from csp_index.labelling.kept.read_labels import label_of
from csp_index.labelling.label_rule import prefer, preferred_method
from csp_index.labelling.labels import label_neurons
from csp_index.labelling.nulls.null_labels import ranked_labels
from csp_index.labelling.request import make_request
from csp_index.labelling.search import embed_query, search_neurons, searched_layers
from csp_index.labelling.texts.candidate_names import Candidates, Mix, layer_candidates, plain_candidates
from csp_index.query.layer_view import LayerView
from csp_index.query.neuron_view import NeuronView, neuron_view
from csp_index.query.notebook import shown_progress
from csp_index.query.results import Labels, SqlResult
from csp_index.records import Label, NeuronKey, Progress
from csp_index.store import catalog
from csp_index.store.connect import check_creatable, claimed, create_store, is_index, open_store
from csp_index.study_reader import StudyReader

if TYPE_CHECKING:  # a method that needs more than the tables loads it: what is only read does not wait for torch
    from csp_index.contrast.vector_index import OptimizeSummary
    from csp_index.evaluation.metrics.sanity import SanityReport
    from csp_index.evaluation.options import EvaluationOptions
    from csp_index.indexing.commit import IndexSummary
    from csp_index.indexing.copy_index import CopySummary
    from csp_index.indexing.doctor.report import IndexReport
    from csp_index.indexing.join_metadata import MetadataSummary
    from csp_index.integrity.findings import Verification
    from csp_index.labelling.elsewhere.imported import ImportSummary
    from csp_index.labelling.texts.candidate_check import CandidateChecks
    from csp_index.models import objects
    from csp_index.models.index_models import NetworkSource
    from csp_index.proposers.propose import ProposeSummary
    from csp_index.proposers.proposer import CandidateKind, Proposer
    from csp_index.query.live_panel import LivePanel
    from csp_index.studies.auditing.stored_audits import Audit


class Index(StudyReader):
    """An index of images, encoders, networks, neurons and labels in one directory or object-store prefix.

    Make one with `open_index`. Reading never waits; adding and labelling hold the index for writing while they last.
    """

    def add_images(
        self,
        source: str | Path | Any | None,
        *,
        encoders: Sequence[str | objects.Encoder] = (),
        networks: Sequence[NetworkSource | objects.Network] = (),
        name: str | None = None,
        metadata: str | Path | None = None,
        metadata_key: str | None = None,
        class_names: str | Path | None = None,
        image_column: str | None = None,
        strict: bool = False,
        shard_size: int | None = None,
        dtype: str | None = None,
        decode_workers: int | None = None,
        draft: bool | None = None,
        maps: bool | None = None,
        engine: str = "local",
        ray_address: str | None = None,
        progress: Progress | None = None,
    ) -> IndexSummary:
        """Index a folder, parquet file, datasets directory or tar shards; what is indexed already is left alone.

        `source` may also be an object: a torch Dataset, a `datasets.Dataset`, an array [N, H, W, C], or an iterable of
        (uri, image); `name` then stands for it in URIs. So may models: `Encoder(...)`, `Network(...)`. `metadata` is a
        table about image files, joined by its column `metadata_key`, by default the one that names most of them;
        `class_names` a file of names for folders that are classes. Files that are no images are counted; with `strict`
        one is an error. Without `encoders` and `networks` those of the index are used; `source=None` only completes
        what it holds. `decode_workers` processes decode the images, with 0 threads do; by default as many as pay.
        With `draft` large JPEGs are decoded reduced: faster, and values differ a little; None keeps what the index was
        made with. `maps` keeps maps of where neurons fire in top images; None: of new layers, and of those that have
        some. `engine="ray"` does it on a Ray cluster: at `ray_address` (HOST:PORT; or RAY_ADDRESS), or of this machine.
        """
        from csp_index.indexing.indexer import add_images, check_settings
        from csp_index.indexing.ray_indexer import chosen_engine
        from csp_index.models.index_models import all_named

        check_settings(shard_size, dtype, decode_workers)
        check_creatable(self.uri)
        self._read_own_datasets_first()
        about = {"metadata": metadata, "metadata_key": metadata_key, "class_names": class_names}
        images = self._datasets.open(source, name, strict=strict, image_column=image_column, **about)
        named = all_named(source, encoders, networks)
        with chosen_engine(engine, ray_address, decode_workers, named=named) as runner:
            with claimed(self.uri) as store:
                loaded, studied = self._models.to_run(store, encoders, networks)
            self._store = create_store(self.uri)
            run = partial(add_images, self.store, images, loaded, studied, dtype=dtype, draft=draft, maps=maps)
            run = partial(run, shard_size=shard_size, decode_workers=decode_workers, engine=runner)
            return run(progress=progress or shown_progress())

    def add_metadata(self, table: str | Path, *, key: str | None = None, replace: bool = False) -> MetadataSummary:
        """Join a table to the metadata of images that are indexed already; see `csp_index.indexing.join_metadata`."""
        from csp_index.indexing.join_metadata import join_metadata

        return join_metadata(self.store, table, key, replace=replace)

    def __getitem__(self, address: str) -> LayerView | NeuronView:
        """Return a layer (`index["m/l"]`, as `layers` has it) or a neuron (`index["m/l/7"]`, as `view` returns it)."""
        return self.view(address) if str(address).count("/") > 1 else self.layers[str(address)]

    def add_layer(
        self,
        network: str | objects.Network,
        layer: str | Sequence[str],
        *,
        pool: str | None = None,
        weights: str | None = None,
        name: str | None = None,
        axis: int | Sequence[int] = (),
        allow_random: bool = False,
        allow_missing: bool = False,
        dtype: str | None = None,
        progress: Progress | None = None,
    ) -> IndexSummary:
        """Add layers of a network over the images that the index holds; the arguments are those of `NetworkSource`."""
        from csp_index.indexing.indexer import add_images
        from csp_index.models.index_models import NetworkSource

        layers = (layer,) if isinstance(layer, str) else tuple(layer)
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        spec, given = (network, None) if isinstance(network, str) else ("", network)
        source = NetworkSource(spec, layers, pool, weights, name, axes, allow_random, allow_missing)
        studied = self._models.added_network(self.store, source, given)
        self._read_own_datasets_first()
        return add_images(self.store, None, [], [studied], dtype=dtype, progress=progress or shown_progress())

    def import_arrays(
        self, activations: str | Path, layer: str, **options: Unpack[keywords.ImportKeywords]
    ) -> IndexSummary:
        """Add a layer, with the first one its images, too, from .npy files: activations [N, M], embeddings [N, D]."""
        from csp_index.indexing.import_arrays import import_arrays

        check_creatable(self.uri)
        if not options.get("embeddings") and not is_index(self.uri):
            raise ArrayError("a new index needs embeddings as well as activations: give --embeddings")
        options = {"progress": shown_progress()} | options
        summary = import_arrays(lambda: create_store(self.uri), activations, layer, **options)
        self._store = open_store(self.uri)
        return summary

    def label(
        self,
        neurons: str | Iterable[str],
        method: str | None = None,
        *,
        vocabulary: Candidates | None = None,
        templates: str | None = None,
        top: int = 5,
        encoder: str | None = None,
        recompute: bool = False,
        keep: bool = True,
        search: bool | None = None,
        explain: Callable[[str], None] | None = None,
        candidates: str | Sequence[str] = "vocabulary",
        pool_candidates: bool = False,
        null: str | None = None,
        progress: Progress | None = None,
        **options: Unpack[keywords.LabelKeywords],
    ) -> Labels:
        """Return labels of a layer (`m/l`), a neuron (`m/l/7`), or several neurons.

        `method` is by default the one the index prefers, else the recommended one (`csp_index.labelling.methods`), or
        csp where the encoder's logit scale is unknown; imported labels are read by their name. `vocabulary` is a
        built-in name, a text file, a list of texts, or `CandidateTexts`; by default the last one used. `options` are
        the fields of ExampleOptions and ScoringOptions. Stored labels are read; `recompute` makes them again,
        `keep=False` writes nothing. `search` finds contrastive images by vector search (True) or products (False), by
        default the cheaper; `explain` receives the choice. `candidates` is any mix of vocabulary, vlm, captioner and
        neighbours: what models named for a neuron is scored for it, or with `pool_candidates` for all. With `null`, a
        layer that has learned nothing, labels are ranked among its own.
        """
        labels: list[Label] = []
        context = replace(self._context(progress), search=search, explain=explain)
        with self.store.moment():
            source, layers = catalog.encoder(self.store, encoder), self.resolve(neurons)
            if null is None and method is not None and method in imported_names(self.store):
                return Labels.drawn(self.store, read_imported(self.store, source, layers, method, top, options))
            request = make_request(method, source, top, options, preferred_method(self.store))
            mix, space = Mix.parse(candidates, pool_candidates), self._text_space(source, templates, keep)
            plain = None if mix.proposed else plain_candidates(space, vocabulary)
            for target, numbers in layers:
                texts, key = plain or layer_candidates(space, target, mix, vocabulary)
                run = partial(label_neurons, recompute=recompute, keep=keep, context=context)
                labels += ranked_labels(run, self.store, Selection(source, target, numbers), request, texts, key, null)
        return Labels.drawn(self.store, labels)

    def import_labels(
        self, layer: str, file: str | Path, name: str | None = None, **options: Unpack[keywords.LabelsFileKeywords]
    ) -> ImportSummary:
        """Keep the labels that a file has for a layer, as those of a method called `name`, by default as the file.

        `label` reads them by this name. The same labels are not stored again; others of the same name are refused,
        unless `replaces`. `layer_name` is what the file calls the layer.
        """
        from csp_index.labelling.elsewhere.imported import import_file

        return import_file(self.store, layer, file, name, **options)

    def propose(
        self,
        neurons: str | Iterable[str],
        *,
        vlm: str | Proposer | None = None,
        captioner: str | Proposer | None = None,
        neighbours: bool = False,
        positive_only: bool = False,
        again: bool = False,
        encoder: str | None = None,
        progress: Progress | None = None,
        **options: Unpack[keywords.ProposeKeywords],
    ) -> tuple[ProposeSummary, ...]:
        """Ask models what neurons mean and keep their answers as candidate labels; one summary a model and layer.

        `vlm` is `openai:BASE_URL` (with `model`), `transformers:ID_OR_DIR`, `python:package.module:factory` or a
        Proposer; `captioner` is the same but for the first; `neighbours` takes labels of similar neurons of other
        layers. Answers are not asked for `again`; `positive_only` shows no contrast. `options`: `propose.read_options`.
        """
        from csp_index.proposers.propose import Asking, propose_all, read_options

        source = catalog.encoder(self.store, encoder)
        selections = [Selection(source, *pair) for pair in self.resolve(neurons)]
        examples, proposer = read_options({"device": self.device, **options})
        models: dict[CandidateKind, str | Proposer | None] = {"vlm": vlm, "captioner": captioner}
        models["neighbours"] = "labels" if neighbours else None
        given = {kind: model for kind, model in models.items() if model is not None}
        told = self._context(progress), progress or shown_progress()
        return propose_all(self.store, selections, given, Asking(examples, proposer, not positive_only, again, *told))

    def check_candidates(
        self,
        neurons: str | Iterable[str],
        candidates: str | Sequence[str] | None = None,
        method: str | None = None,
        *,
        vocabulary: Candidates | None = None,
        templates: str | None = None,
        encoder: str | None = None,
        keep: bool = True,
        **options: Unpack[keywords.LabelKeywords],
    ) -> CandidateChecks:
        """Return which candidates of models score below the vocabulary's best: a sign that they are invented.

        `candidates` are kinds, by default those of vlm and captioner that the index has. The other arguments as in
        `label`; no label is made, and `keep=False` does not even keep the embeddings of new texts.
        """
        from csp_index.labelling.texts.candidate_check import check_neurons

        source, layers = catalog.encoder(self.store, encoder), self.resolve(neurons)
        request = make_request(method, source, 1, options, preferred_method(self.store))
        selections, space = [Selection(source, *pair) for pair in layers], self._text_space(source, templates, keep)
        return check_neurons(space, selections, request, vocabulary, candidates, self._context())

    def evaluate(
        self,
        neurons: str | Iterable[str],
        options: EvaluationOptions | None = None,
        *,
        vocabulary: Candidates | None = None,
        labels: Sequence[str | Path] = (),
        templates: str | None = None,
        encoder: str | None = None,
        recompute: bool = False,
        progress: Progress | None = None,
    ) -> Evaluation:
        """Judge how faithful labels of one layer's neurons are: chosen on one part of the images, judged on another.

        `labels` are files of labels made elsewhere, FILE or "NAME=FILE", judged beside the methods. `vocabulary`,
        `templates` and `encoder` as in `label`. Values are stored and read again.
        """
        from csp_index.evaluation.evaluate import evaluate
        from csp_index.evaluation.options import with_labels
        from csp_index.evaluation.steps import tools_of

        source, layers = catalog.encoder(self.store, encoder), self.resolve(neurons)
        if len(layers) != 1:
            raise EvaluationError(f"{len(layers)} layers are named: an evaluation is of one layer")
        selection, space = Selection(source, *layers[0]), self._text_space(source, templates, keep=True)
        tools, report = tools_of(self._models, space, vocabulary, self._context(progress)), progress or shown_progress()
        return evaluate(self.store, selection, with_labels(options, labels), tools, report, recompute=recompute)

    def report(
        self,
        subject: Evaluation | Audit,
        place: str | Path,
        *,
        sanity: SanityReport | None = None,
        **options: Unpack[keywords.ReportKeywords],
    ) -> Path:
        """Write an evaluation as a folder of a page, JSON and CSV, or an audit as one HTML file (and `pdf`)."""
        if not isinstance(subject, Evaluation):
            return self._report_audit(subject, place, **options)
        from csp_index.evaluation.report.write import report_evaluation

        return report_evaluation(self.store, subject, place, self.label, self.card, sanity)

    def search(
        self,
        text: str | None = None,
        *,
        image: str | Path | None = None,
        layer: str | None = None,
        top: int = 10,
        templates: str | None = None,
        encoder: str | None = None,
    ) -> SqlResult:
        """Return the neurons whose concept vector is nearest to a text or a picture: neuron, score, method, label."""
        source = catalog.encoder(self.store, encoder)
        query = embed_query(self._text_space(source, templates, keep=False), text, image)
        return SqlResult(search_neurons(self.store, source, searched_layers(self.store, layer), query, top))

    def view(self, neuron: str, method: str | None = None, **options: Unpack[keywords.ViewKeywords]) -> NeuronView:
        """Return all about one neuron: its label (made now if there is none), statistics, image names."""
        ((target, numbers),) = self.resolve(str(NeuronKey.parse(neuron)))
        overrides = cast(keywords.ViewKeywords, {name: value for name, value in options.items() if value is not None})
        selection = Selection(catalog.encoder(self.store, overrides.get("encoder")), target, numbers)
        stored = None if overrides else label_of(self.store, selection, int(numbers[0]), method)
        return neuron_view(self.store, target, stored or self.label(neuron, method, **overrides)[0])

    def panel(self, neuron: str) -> LivePanel:
        """Return a widget that labels a neuron again while its controls move, and writes nothing (extra `notebook`)."""
        from csp_index.query.live_panel import LivePanel

        view, relabel = self.view(neuron), partial(self.label, neuron, keep=False, progress=unseen)
        mapped = bool(view.veil(view.label.neuron, [pair.image_id for pair in view.pairs]))
        return LivePanel(neuron, view.label.method, relabel, view.read, mapped=mapped)

    def prefer(self, method: str | None) -> None:
        """Make a method the one whose labels are shown, and that labels by default; None takes that back."""
        prefer(self.store, method)

    def doctor(self, **options: Unpack[keywords.DoctorKeywords]) -> IndexReport:
        """Report what the index holds, and what would not work when it is extended: see `csp_index.doctor`."""
        from csp_index.indexing.doctor.examination import Examination
        from csp_index.indexing.doctor.index import examine_index

        self._read_own_datasets_first()
        return examine_index(self.uri, Examination(self._models, **options))

    def copy(self, place: str | Path, without: Iterable[str] | None = None) -> CopySummary:
        """Copy the index without some images, by default those in its table `failures`: see `csp-index copy`."""
        from csp_index.indexing.copy_index import copy_index

        return copy_index(self.uri, place, without, shown_progress())

    def verify(self, **options: Unpack[keywords.VerifyKeywords]) -> Verification:
        """Return what is wrong with the index; with `repair` what is broken is made again from what is left."""
        from csp_index.integrity.verify import encoder_at_hand, verify

        return verify(self.uri, find_encoder=partial(encoder_at_hand, self._models), **options)

    def optimize(self, **options: Unpack[keywords.OptimizeKeywords]) -> OptimizeSummary:
        """Build the vector index of every encoder (or of the one named), compact all tables, measure the recall."""
        from csp_index.contrast.vector_index import optimize

        return optimize(self.store, **options)


def open_index(uri: str | Path, **options: Unpack[keywords.OpenKeywords]) -> Index:
    """Return the index at a directory or s3://bucket/db; a new one is created when something is first added to it.

    `models` are the objects, `Network(...)` or `Encoder(...)`, that an index made from objects needs to be extended, by
    their names. `trust=True` runs code that only the index names. `version`, a number or a tag, is what the index was
    after an earlier command, only to be read (see `versions`). `with open_index(...) as index` closes it in the end.

    >>> import tempfile
    >>> import numpy as np
    >>> import torch
    >>> from csp_index import CandidateTexts
    >>> folder, rng = tempfile.mkdtemp(), np.random.default_rng(0)
    >>> np.save(f"{folder}/E.npy", rng.standard_normal((40, 8)))  # image embeddings
    >>> np.save(f"{folder}/A.npy", np.abs(rng.standard_normal((40, 3))))  # activations of three neurons
    >>> index = open_index(f"{folder}/db")
    >>> index.import_arrays(f"{folder}/A.npy", "net/layer", embeddings=f"{folder}/E.npy").images
    40
    >>> texts = CandidateTexts(("striped", "red star"), torch.eye(2, 8), key="mine")
    >>> labels = index.label("net/layer", method="csp", vocabulary=texts, gamma=0.5, top=1)
    >>> [label.state for label in labels], len(labels[0].pairs)
    (['labelled', 'labelled', 'labelled'], 30)
    >>> index.label("net/layer/2", vocabulary=texts, gamma=0.5, top=1)[0] == labels[2]  # read, not made again
    True
    """
    return Index(uri, **options)
