"""A reader that asks about whole networks: each method is a few lines that call the room of studies.

It also writes what readers say of labels and findings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np
import pyarrow as pa

from csp_index import keywords
from csp_index.contrast.selection import Selection
from csp_index.errors import SettingError
from csp_index.labelling.label_rule import preferred_method
from csp_index.labelling.labels import label_neurons
from csp_index.labelling.request import make_request
from csp_index.labelling.review.pinned import pinned_label, pins_of
from csp_index.labelling.texts.candidate_names import Candidates, named_vocabulary, plain_candidates
from csp_index.loading_reader import LoadingReader
from csp_index.query.notebook import shown_progress
from csp_index.query.reader import Reader
from csp_index.query.results import SqlResult
from csp_index.records import Label, LayerKey, Progress
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.studies.hierarchies.levels import KEEP

if TYPE_CHECKING:
    from csp_index.labelling.review.notes import Note
    from csp_index.studies.auditing.stored_audits import Audit
    from csp_index.studies.classes.associations import Associations
    from csp_index.studies.comparison.records import Comparison
    from csp_index.studies.concepts.records import Concept
    from csp_index.studies.effects.stored_effects import LayerEffects
    from csp_index.studies.evolution.records import Evolution
    from csp_index.studies.hierarchies.records import LayerHierarchy
    from csp_index.studies.meanings.facets import LayerFacets
    from csp_index.studies.meanings.formulas import LayerFormulas
    from csp_index.studies.reporting.check import ReportCheck
    from csp_index.studies.reviewing.note_files import NotesImport


class StudyReader(LoadingReader):
    """An index of which studies are made: they are read where they are stored, else made and stored."""

    def associations(self, layer: str, by: str, **options: Unpack[keywords.AssociationKeywords]) -> Associations:
        """Return how well each neuron of a layer tells each class of images; see `csp-index associations`.

        `by` is a column of the images' metadata, or `outputs:MODEL/LAYER`, a classifier's outputs: then an image is of
        the class whose output is highest on it. `options`: `classes` (1,000 at most), `bins` of a column of numbers,
        `firing` (above what a neuron fires: "0", a number, mean, quantile:Q, max:F), `recompute`.
        """
        from csp_index.studies.classes.associate import associate

        options = {"progress": shown_progress()} | options
        return associate(self.store, layer, by, **options)

    def concept(self, word: str, *, top: int = 12, templates: str | None = None, encoder: str | None = None) -> Concept:
        """Return which neurons of all layers answer to a word: by label, by concept vector, as a stored candidate.

        `top` neurons of each way, the best first; `sentence` says what holds. A word whose embedding is stored needs no
        encoder. See `csp-index concept`.
        """
        from csp_index.studies.concepts.ask import ask_concept

        space = self._text_space(catalog.encoder(self.store, encoder), templates, keep=False)
        return ask_concept(space, self.sql, word, top)

    def effects(
        self,
        neurons: str | Iterable[str],
        *,
        class_names: Sequence[str] | str | Path | None = None,
        recompute: bool = False,
        progress: Progress | None = None,
        **options: Unpack[keywords.EffectKeywords],
    ) -> LayerEffects:
        """Return what neurons of one layer do to the network's logits, class by class; see `csp-index effects`.

        The effect on a class is the neuron's part in its logit on images of the class, minus that on the others.
        `options`: `by` is linear (exact, where a linear head reads the layer), zero or mean (the network runs with one
        neuron at a time set to it), by default linear where it holds and else mean; `head`, the module that gives the
        logits; `sample` images, drawn by `seed`, on which neurons are set; `column`, metadata with each image's class,
        by default what the network says. `class_names` are in the order of the logits.
        """
        from csp_index.studies.effects.layer_effects import EffectOptions, layer_effects

        layer = self._of_one_layer(neurons, "effects")
        self._read_own_datasets_first()
        return layer_effects(
            self.store,
            *layer,
            EffectOptions(**options),
            self._get_models,
            class_names=class_names,
            recompute=recompute,
            progress=progress or shown_progress(),
        )

    def _of_one_layer(self, neurons: str | Iterable[str], what: str) -> tuple[LayerInfo, np.ndarray]:
        """Return the layer and the numbers of neurons, which are of one layer; `what` a study finds of them."""
        layers = self.resolve(neurons)
        if len(layers) != 1:
            raise SettingError(f"{len(layers)} layers are named: {what} are of the neurons of one layer")
        return layers[0]

    def facets(
        self,
        neurons: str | Iterable[str],
        *,
        vocabulary: Candidates | None = None,
        templates: str | None = None,
        encoder: str | None = None,
        recompute: bool = False,
        progress: Progress | None = None,
    ) -> LayerFacets:
        """Return the meanings of neurons of one layer, each with a label and its images; see `csp-index facets`.

        `neurons` are addresses, or MODEL/LAYER for all of a layer. `vocabulary` is as for `label`, by default the one
        used last. Stored facets are read; `recompute` finds them again.
        """
        from csp_index.studies.meanings.make_facets import layer_facets

        target, numbers = self._of_one_layer(neurons, "facets")
        source, report = catalog.encoder(self.store, encoder), progress or shown_progress()
        texts, key = plain_candidates(self._text_space(source, templates, keep=True), vocabulary)
        selection, context = Selection(source, target, numbers), self._context(report)
        return layer_facets(self.store, selection, texts, key, recompute=recompute, context=context, progress=report)

    def formulas(
        self,
        neurons: str | Iterable[str],
        *,
        vocabulary: Candidates | None = None,
        templates: str | None = None,
        encoder: str | None = None,
        **options: Unpack[keywords.FormulaKeywords],
    ) -> LayerFormulas:
        """Return logical labels of neurons of one layer: AND, OR, AND NOT of concepts; see `csp-index formulas`.

        Concepts are texts of a vocabulary (as for `label`) that an image fits well, or with `by` the values of metadata
        columns. A formula is `kept` where it explains held-out activations better than the best concept alone.
        `options`: `by`; `firing`, above what an image fires a neuron ("0", a number, mean, quantile:Q, max:F); `seed`,
        which draws the images that are held out; `recompute`.
        """
        from csp_index.studies.meanings.make_formulas import TextSource, layer_formulas

        target, numbers = self._of_one_layer(neurons, "formulas")
        source = None
        if not options.get("by"):
            info = catalog.encoder(self.store, encoder)
            space = self._text_space(info, templates, keep=True)
            source = TextSource(info, *plain_candidates(space, vocabulary))
        elif vocabulary is not None:
            raise SettingError("concepts are texts of a vocabulary, or values of metadata columns: name one of the two")
        options = {"progress": shown_progress()} | options
        return layer_formulas(self.store, target, numbers, source, **options)

    def note(self, subject: str, action: str, text: str = "", *, by: str | None = None) -> Note:
        """Write what a reader says of a neuron's label (`m/l/7`) or of a finding (`finding:ID`); it is only added.

        `action` is accept or reject (`text` may say why; the label stays as it is made), rename (the neuron is called
        `text` wherever its label is shown), unname, tag, untag or comment. `by` is the reader, by default the setting
        reader.
        """
        from csp_index.studies.reviewing.notes import Draft, reader_named, write_notes

        return write_notes(self.store, [Draft(subject, action, reader_named(by), text)])[0]

    def notes(self, subject: str | None = None) -> SqlResult:
        """Return what readers said, of all or of one subject, in the order they said it: the table `notes`."""
        from csp_index.labelling.review.notes import read_notes, subject_of
        from csp_index.store.study_tables import NOTES

        rows = read_notes(self.store, None if subject is None else subject_of(subject))
        names = [name for name in schema.table_schema(NOTES).names if name != "run_id"]
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema.table_schema(NOTES).remove_metadata())
        return SqlResult(table.select(names))

    def export_notes(self, path: str | Path) -> int:
        """Write all notes and ratings to a CSV file, and return how many rows they are."""
        from csp_index.studies.reviewing.note_files import export_notes

        return sum(export_notes(self.store, path))

    def import_notes(self, path: str | Path) -> NotesImport:
        """Add the notes and ratings of a file that `export_notes` wrote, here or elsewhere; those it has stay."""
        from csp_index.studies.reviewing.note_files import import_notes

        return import_notes(self.store, path)

    def compare(
        self,
        first: str,
        second: str,
        *,
        other: str | Path | Reader | None = None,
        encoder: str | None = None,
        vocabulary: str | Path | Sequence[str] | None = None,
        untrained: str | None = None,
        seed: int = 0,
        recompute: bool = False,
        progress: Progress | None = None,
    ) -> Comparison:
        """Return which neurons of two layers match one to one, and which concepts only one of them holds.

        Neurons are matched by the cosine of their concept vectors and by the correlation of their activations; a match
        counts above the 95th percentile of two nulls. `other` is the index of the second layer, if it is another one
        with some of the same images. `vocabulary` is the one whose coverage is counted, by default the last one used.
        `untrained` is a layer of this index that has learned nothing, as the second one with redrawn weights: what the
        first one's neurons score with it is a third null.
        Stored comparisons are read; `recompute` makes them again.
        """
        from csp_index.studies.comparison.compare_layers import compare_layers
        from csp_index.studies.comparison.shared_images import Side

        beside = self if other is None else other if isinstance(other, Reader) else Reader(other)
        one, two = (
            Side(reader.store, catalog.layer(reader.store, LayerKey.parse(layer)))
            for reader, layer in ((self, first), (beside, second))
        )
        is_known = vocabulary is not None or self.store.count(schema.VOCABULARIES) > 0
        return compare_layers(
            one,
            two,
            encoder=encoder,
            vocabulary=named_vocabulary(self.store, vocabulary) if is_known else None,
            untrained=None
            if untrained is None
            else Side(self.store, catalog.layer(self.store, LayerKey.parse(untrained))),
            seed=seed,
            recompute=recompute,
            progress=progress or shown_progress(),
        )

    def evolution(
        self,
        network: str,
        layers: str | Sequence[str],
        checkpoints: Sequence[str | Path],
        *,
        name: str | None = None,
        pool: str | None = None,
        axis: Sequence[int] = (),
        method: str | None = None,
        vocabulary: str | Path | Sequence[str] | None = None,
        templates: str | None = None,
        encoder: str | None = None,
        recompute: bool = False,
        progress: Progress | None = None,
    ) -> list[Evolution]:
        """Return how the neurons of a network's layers changed through checkpoints, weight files in order of training.

        All checkpoints that the index lacks are indexed in one pass over its images, as networks NAME@CHECKPOINT, then
        labeled as by `label`; labels, firing rates and concept vectors of consecutive checkpoints are compared.
        `name`, `pool` and `axis` as in `add_layer`. Stored evolutions are read; `recompute` makes them again.
        """
        from csp_index.models.zoo import default_name
        from csp_index.studies.evolution.checkpoints import named_checkpoints
        from csp_index.studies.evolution.evolve import Stage, evolve
        from csp_index.studies.evolution.indexing import checkpoint_sources, index_checkpoints

        chosen, title = named_checkpoints(checkpoints), name or default_name(network)
        names = (layers,) if isinstance(layers, str) else tuple(layers)
        source, report = catalog.encoder(self.store, encoder), progress or shown_progress()
        self._read_own_datasets_first()
        sources = checkpoint_sources(network, names, chosen, title, pool=pool, axis=tuple(axis))
        index_checkpoints(self.store, [self._models.network(one) for one in sources], report)
        found = []
        for layer in names:
            stages = []
            for one in chosen:
                target = catalog.layer(self.store, LayerKey(one.network_name(title), layer))
                labels = self._labels_of(source, target, method, vocabulary, templates)
                stages.append(Stage(one.name, target, labels))
            found.append(evolve(self.store, source, title, stages, recompute=recompute))
        return found

    def _labels_of(
        self,
        source: EncoderInfo,
        target: LayerInfo,
        method: str | None,
        vocabulary: str | Path | Sequence[str] | None,
        templates: str | None,
    ) -> list[Label]:
        """Return the labels of a layer, as `Index.label` makes them; without a method names of readers come first."""
        request = make_request(method, source, 5, {}, preferred_method(self.store))
        space = self._text_space(source, templates, keep=True)
        texts, key = plain_candidates(space, vocabulary)
        selection = Selection(source, target, np.arange(target.neurons))
        labels = label_neurons(self.store, selection, request, texts, key, context=self._context())
        pins = pins_of(self.store, target) if method is None else {}
        for neuron, pin in pins.items():
            labels[neuron] = pinned_label(pin, labels[neuron].neuron, labels[neuron])
        return labels

    def audit(
        self,
        network: str,
        expected: str | Path | Iterable[str],
        *,
        templates: str | None = None,
        encoder: str | None = None,
        class_names: Sequence[str] | str | Path | None = None,
        head: str | None = None,
        **options: Unpack[keywords.AuditKeywords],
    ) -> Audit:
        """Return what a network relies on and should not, the most doubtful with the largest effect first.

        `expected` are the concepts that it should rely on: a file with one per line, or a list. `class_names` name the
        network's outputs in their order, `head` is the module that gives them, if the network's own output does not.
        `options`: `by`, the metadata column with the images' classes (by default the outputs, if these are indexed);
        `layer`; `artefacts`, the columns that must not matter (by default all others); `threshold`; `method` and
        `vocabulary` of the labels; `recompute`. Labels and effects that are lacking are made; see `csp-index audit`.
        """
        from csp_index.studies.auditing.prepare import AuditTools, audit_network, network_effects

        source = catalog.encoder(self.store, encoder)
        space, context = self._text_space(source, templates, keep=True), self._context(options.get("progress"))
        options = {"progress": shown_progress()} | options
        found = network_effects(self.store, self._get_models, class_names, head, options.get("progress"))
        return audit_network(self.store, network, expected, AuditTools(space, context, found), **options)

    def stored_audit(self, network: str | None = None, *, layer: str | None = None, by: str | None = None) -> Audit:
        """Return the audit that was made last: of a network, by default of the only one that has an audit.

        `layer` and `by` name one of several.
        """
        from csp_index.studies.reporting.write import named_audit

        return named_audit(self.store, network, layer, by)

    def check_report(self, file: str | Path) -> ReportCheck:
        """Return whether the index still says what the report of an audit says, and whether its file is unchanged."""
        from csp_index.studies.reporting.check import check_report

        return check_report(self.store, file)

    def _report_audit(self, audit: Audit, file: str | Path, **options: Unpack[keywords.ReportKeywords]) -> Path:
        """Write the report of an audit: see `Index.report`."""
        from csp_index.studies.auditing.stored_audits import Audit
        from csp_index.studies.reporting.write import write_audit_report

        if not isinstance(audit, Audit):
            raise SettingError(
                f"a report is of what `evaluate` or `audit` returned, not of a {type(audit).__name__}: give that"
            )
        if options.get("heat_maps"):
            self._read_own_datasets_first()
        options = {"progress": shown_progress()} | options
        return write_audit_report(self.store, audit, file, self._get_models, **options)

    def hierarchy(
        self,
        layer: str,
        file: str | Path,
        *,
        vocabulary: Candidates | None = None,
        templates: str | None = None,
        encoder: str | None = None,
        seed: int = 0,
        keep: float = KEEP,
        recompute: bool = False,
        progress: Progress | None = None,
    ) -> LayerHierarchy:
        """Return a layer's labels grouped by broader words, each at the level that its neuron's activations bear.

        `file` is a table child,parent or WordNet's `data.noun`. A label is replaced by a broader word where that
        explains the neuron's activations on held-out images as well; see `csp-index hierarchy`. `vocabulary` has the
        narrower words, by default the last one used. `seed` splits the images; a broader word keeps at least the share
        `keep` of the label's correlation. What is stored is read; `recompute` makes it again.
        """
        from csp_index.studies.hierarchies.arrange import HierarchyOptions, arrange_labels

        return arrange_labels(
            self._text_space(catalog.encoder(self.store, encoder), templates, keep=True),
            catalog.layer(self.store, LayerKey.parse(layer)),
            file,
            HierarchyOptions(seed, keep),
            vocabulary=vocabulary,
            recompute=recompute,
            progress=progress or shown_progress(),
        )
