"""Vocabularies and text embeddings: complete by the digest in their names, and as the encoder embeds the texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from csp_index.errors import CspIndexError, one_line
from csp_index.images.decode import ImageRead
from csp_index.integrity.column_checks import Marks, wrong_vectors
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject, many
from csp_index.labelling.texts.candidate_names import template_key
from csp_index.labelling.vocabularies import digest
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.prompt_templates import TEMPLATE_SETS, from_index, templates
from csp_index.store import catalog, column_tables, schema
from csp_index.store.catalog import EncoderInfo
from csp_index.store.originals import ImageRoots, read_originals

_TEXTS = 8  # of a vocabulary that are embedded again
_IMAGES = 8  # of an encoder that are embedded again
_SAME = 0.999  # cosine of an embedding and the same one made on another device

#: The encoder of an index where it is at hand, None where it would have to be fetched; errors say why it cannot run.
FindEncoder = Callable[[EncoderInfo], LoadedEncoder | None]

Group = tuple[str, str]  # a vocabulary's key and a template set


def check_texts(subject: Subject) -> None:
    """Check the vocabularies, and the stored embeddings of every encoder."""
    if subject.is_readable(schema.VOCABULARIES):
        with reading(subject.result.findings, schema.VOCABULARIES):
            rows = subject.store.read(schema.VOCABULARIES)
            for group, own in _groups(rows).items():
                subject.result.count("vocabularies")
                if not _is_whole(own, group[0]):
                    text, where = "its texts are not those that were stored", f"vocabulary {group[0]}"
                    subject.find(schema.VOCABULARIES, text, where, key=group)
    for info in subject.encoders:
        table = column_tables.texts_table(info.name)
        if subject.is_readable(table):
            with reading(subject.result.findings, table):
                _check_embedded(subject, info, table)


def _groups(rows: pa.Table) -> dict[Group, pa.Table]:
    grouped = rows.select(["vocabulary", "template_set"]).group_by(["vocabulary", "template_set"]).aggregate([])
    groups = {}
    for row in grouped.to_pylist():
        same = pc.and_(
            pc.equal(rows["vocabulary"], row["vocabulary"]), pc.equal(rows["template_set"], row["template_set"])
        )
        groups[row["vocabulary"], row["template_set"]] = rows.filter(same).sort_by("position")
    return groups


def _is_whole(rows: pa.Table, key: str) -> bool:
    """Return whether the rows of a vocabulary are those of the digest in its key; the last may be the empty text."""
    texts = rows["text"].to_pylist()
    if rows["position"].to_pylist() != list(range(len(texts))) or any(text is None for text in texts):
        return False
    wanted = key.rpartition("@")[2]
    return digest(texts) == wanted or (texts[-1:] == [""] and digest(texts[:-1]) == wanted)


def _check_embedded(subject: Subject, info: EncoderInfo, table: str) -> None:
    rows = subject.store.read(table)
    subject.result.count("text embeddings", rows.num_rows)
    for group, own in _groups(rows).items():
        where = f"vocabulary {group[0]}, templates {group[1]}"
        if not _is_whole(own, group[0]):
            subject.find(table, "its texts are not those that were stored", where, key=group)
        elif why := wrong_vectors(own, "embedding", info.width, own["text"].to_pylist(), unit=False):
            subject.find(table, why, where, key=group)


def check_against_encoders(subject: Subject, marks: Marks, find: FindEncoder) -> None:
    """Embed some texts and images again, with the encoders that are at hand."""
    for info in subject.encoders:
        if info.is_imported:
            continue
        try:
            encoder = find(info)
        except CspIndexError as exc:
            subject.result.notes.append(
                f"encoder {info.name} is not at hand ({one_line(exc)}): embeddings not compared"
            )
            continue
        if encoder is None:
            subject.result.notes.append(f"encoder {info.name} is not on this machine: its embeddings are not compared")
            continue
        table = column_tables.texts_table(info.name)
        if subject.is_readable(table):
            with reading(subject.result.findings, table):
                _compare_texts(subject, table, encoder)
        if info.what in marks and subject.is_readable(schema.IMAGES):
            with reading(subject.result.findings, info.table):
                _compare_images(subject, info, encoder, marks)


def _compare_texts(subject: Subject, table: str, encoder: LoadedEncoder) -> None:
    known = {template_key(name): name for name in _template_sets(subject)}
    for group, rows in _groups(subject.store.read(table)).items():
        if group[1] not in known:
            continue
        places = np.sort(np.random.default_rng(0).choice(len(rows), min(_TEXTS, len(rows)), replace=False))
        own = rows.take(pa.array(places))
        texts = own["text"].to_pylist()
        made = encoder.embed_texts(texts, templates(known[group[1]])).float().cpu()
        subject.result.count("texts embedded again", len(texts))
        if wrong := _unlike(own["embedding"], made):
            text = f"{many([texts[i] for i in wrong], 'text')}: the encoder embeds these otherwise"
            subject.find(table, text, f"vocabulary {group[0]}, templates {group[1]}", key=group)


def _template_sets(subject: Subject) -> list[str]:
    stored: list[str] = []
    if subject.is_readable(schema.VOCABULARIES):
        stored = subject.store.read(schema.VOCABULARIES, ["template_set"])["template_set"].unique().to_pylist()
    allowed = []
    for name in {*TEMPLATE_SETS, *stored}:
        try:
            allowed.append(from_index(name))
        except CspIndexError:  # a file's name, which is never opened
            continue
    return allowed


def _compare_images(subject: Subject, info: EncoderInfo, encoder: LoadedEncoder, marks: Marks) -> None:
    """Embed a few images again, those whose originals may be opened and are the same as when they were indexed."""
    last = marks[info.what][-1][0]
    count = last.first_image + last.rows
    roots = ImageRoots(subject.store)
    places = np.sort(np.random.default_rng(1).choice(count, min(_IMAGES, count), replace=False))
    rows = subject.store.dataset(schema.IMAGES).take(places, columns=["image_id", "uri", "sha256"]).to_pylist()
    rows = [row for row in rows if row["sha256"] is not None and roots.allow(row["uri"])]
    pairs = list(zip(rows, read_originals(subject.store, [row["uri"] for row in rows]), strict=True))
    read = [(row, one) for row, one in pairs if isinstance(one, ImageRead) and one.sha256 == row["sha256"]]
    if not read:
        return
    ids = [row["image_id"] for row, _ in read]
    pixels = torch.stack([encoder.preprocess(one.image) for _, one in read])
    stored = subject.store.dataset(info.table).take(ids, columns=[column_tables.EMBEDDING])[column_tables.EMBEDDING]
    subject.result.count("images embedded again", len(ids))
    for wrong in _unlike(stored, encoder.embed_images(pixels).float().cpu()):
        number = next(shard.number for shard, _ in marks[info.what] if ids[wrong] < shard.first_image + shard.rows)
        where = f"image {ids[wrong]}"
        subject.find(info.table, "the encoder embeds this image otherwise", where, key=(info.what, number))


def _unlike(column: pa.ChunkedArray, made: torch.Tensor) -> list[int]:
    """Return the rows of stored embeddings that are not those made again."""
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).copy()
    stored = torch.from_numpy(flat).reshape(made.shape)
    lengths = (stored.norm(dim=1) / made.norm(dim=1).clamp(min=1e-12) - 1).abs()
    cosines = torch.nn.functional.cosine_similarity(stored, made, dim=1)
    wrong: list[int] = ((cosines < _SAME) | (lengths > 1 - _SAME)).nonzero()[:, 0].tolist()
    return wrong


def sql_of(group: Group) -> str:
    """Return the SQL condition of the rows of a vocabulary under a template set."""
    vocabulary, template_set = (catalog.sql_text(part) for part in group)
    return f"vocabulary = {vocabulary} AND template_set = {template_set}"
