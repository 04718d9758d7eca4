"""A captioner as a proposer: it describes a neuron's images one by one, and `phrases` compares the captions.

It runs image captioners of transformers: BLIP, BLIP-2, GIT, VisionEncoderDecoder, and any other that
`AutoModelForImageTextToText` loads and that captions a picture without a text. Code in a model's repository is never
run. Knows nothing about storage.

The rule is FALCON's (arXiv 2307.10504) with captions alone. FALCON's published code scores each word and noun phrase of
the activating images' captions by the mean, over the images, of the best CLIP similarity of a caption that contains it,
and drops phrases that score 0.1 or more on the lowly activating images. Here the captions are written for the images,
so a phrase counts 1 where it occurs; and it is weighted instead of dropped (see `contrast_phrases`), because captioners
err: otherwise one contrastive caption in ten with the right phrase by mistake would drop it. Scoring by CLIP is the
task of labeling.
"""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from PIL import Image

from csp_index import settings
from csp_index.errors import ProposerError, one_line
from csp_index.lru_cache import LRUCache
from csp_index.models.weights import hash_weights, lasting, local_directory, put, resolve_device
from csp_index.proposers.phrases import contrast_phrases
from csp_index.proposers.proposer import Answer, CandidateKind, Question
from csp_index.records import NeuronKey

_KEPT_CAPTIONS: Final = 100_000  # of pictures seen in a run, about 10 MB


@dataclass(frozen=True, slots=True)
class _Caption:
    """The caption of one picture and its cost; `failure` says why there is none."""

    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    failure: str = ""


@dataclass(slots=True)
class _Waiting:
    """A question whose pictures are being captioned: their hashes; `first` are those no earlier question needed."""

    neuron: NeuronKey
    activating: tuple[str, ...]
    contrastive: tuple[str, ...]
    first: set[str] = field(default_factory=set)
    captions: dict[str, _Caption] = field(default_factory=dict)

    @property
    def missing(self) -> set[str]:
        return {*self.activating, *self.contrastive} - self.captions.keys()


class Captioner:
    """A Proposer whose candidates are the phrases that fit the captions of activating but not of contrastive images.

    It decodes greedily, without a text prompt; in float32, as on a CPU, a caption does not depend on its batch.
    `revision` is the SHA-256 of the stored weights, `prompt` has the options that affect an answer.
    """

    kind: CandidateKind = "captioner"

    def __init__(
        self,
        spec: str,
        *,
        device: str = "auto",
        new_tokens: int | None = None,
        batch: int | None = None,
        floor: float | None = None,
        most: int | None = None,
    ) -> None:
        """Load the captioner `transformers:ORG/NAME` or `transformers:/local/directory`.

        `new_tokens` limits a caption, `batch` is the number of pictures in a batch, `floor` and `most` are those of
        `contrast_phrases`; None means the setting `caption_...`. Errors: ProposerError for a model that is unknown,
        does not caption pictures, or lacks its processor; SettingError.
        """
        self.batch = settings.CAPTION_BATCH.value(batch)
        self._new_tokens = settings.CAPTION_NEW_TOKENS.value(new_tokens)
        self._floor = settings.CAPTION_FLOOR.value(floor)
        self._most = settings.CAPTION_PHRASES.value(most)
        self.name = lasting(spec)
        self.prompt = json.dumps({"floor": self._floor, "most": self._most, "new_tokens": self._new_tokens})
        self._device = resolve_device(device)
        self._model, self.revision, self._images, self._tokenizer = _load(spec, self._device)
        self._known = LRUCache(_KEPT_CAPTIONS)  # captions by the hash of their picture
        self._check(spec)

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """Yield one answer per question, in order; each distinct picture is captioned once.

        Pictures of different neurons share batches. A question without contrastive images is answered from the
        activating captions alone. An answer that needs a picture on which the model fails is `failed`.
        """
        waiting: list[_Waiting] = []
        pictures: dict[str, Image.Image] = {}
        for question in questions:
            waiting.append(self._wait(question, pictures))
            while len(pictures) >= self.batch:
                self._caption_some(pictures, waiting)
            yield from self._finished(waiting)
        while pictures:
            self._caption_some(pictures, waiting)
        yield from self._finished(waiting)

    def captions(self, images: Sequence[Image.Image]) -> list[str]:
        """Return a caption per image. Errors: whatever the library raises for an image that it cannot caption."""
        starts = range(0, len(images), self.batch)
        return [text for at in starts for text, _ in self._write(images[at : at + self.batch])]

    def _check(self, spec: str) -> None:
        try:
            put(self._model, self._device)
            self._write([Image.new("RGB", (64, 64), "grey")])
        except Exception as exc:  # a model that needs a text prompt, or more memory, may raise anything
            raise ProposerError(
                f"{spec} cannot caption a picture on {self._device}: {one_line(exc)}; a model that needs a text with "
                "the picture is for --vlm"
            ) from exc

    def _wait(self, question: Question, pictures: dict[str, Image.Image]) -> _Waiting:
        """Return the captions that a question needs; add pictures that no earlier question needed to `pictures`."""
        activating, contrastive = (
            tuple(_digest(image) for image in images) for images in (question.activating, question.contrastive)
        )
        entry = _Waiting(question.neuron, activating, contrastive)
        images = (*question.activating, *question.contrastive)
        for digest, image in zip((*activating, *contrastive), images, strict=True):
            if (caption := self._known.find(digest)) is not None:
                entry.captions[digest] = caption
            elif digest not in pictures:
                pictures[digest] = image
                entry.first.add(digest)
        return entry

    def _caption_some(self, pictures: dict[str, Image.Image], waiting: Sequence[_Waiting]) -> None:
        """Caption the first batch of `pictures`, remove it, and give the captions to the waiting questions."""
        batch = list(pictures)[: self.batch]
        captions = dict(zip(batch, self._described([pictures.pop(digest) for digest in batch]), strict=True))
        for digest, caption in captions.items():
            if not caption.failure:
                self._known.put(digest, caption)
        for entry in waiting:
            entry.captions.update((digest, captions[digest]) for digest in entry.missing & captions.keys())

    def _described(self, images: Sequence[Image.Image]) -> list[_Caption]:
        """Return the captions of a batch; a batch that fails is halved until the failing picture is alone."""
        start = time.perf_counter()
        captions = self._try(images)
        if not isinstance(captions, str):
            seconds = (time.perf_counter() - start) / len(images)
            return [_Caption(text, tokens, seconds) for text, tokens in captions]
        if len(images) == 1:
            return [_Caption(failure=f"the captioner failed on an image: {captions}")]
        half = len(images) // 2
        return [*self._described(images[:half]), *self._described(images[half:])]

    def _try(self, images: Sequence[Image.Image]) -> list[tuple[str, int]] | str:
        """Return the result of `_write`, or the reason for its failure in one line."""
        try:
            return self._write(images)
        except Exception as exc:  # processors and models raise whatever their parts raise
            reason, out_of_memory = one_line(exc), isinstance(exc, MemoryError | torch.OutOfMemoryError)
        if out_of_memory:  # the exception is gone by now, and with it the memory that its frames referenced
            self.batch = max(1, min(self.batch, len(images) // 2))
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return reason

    def _write(self, images: Sequence[Image.Image]) -> list[tuple[str, int]]:
        """Return the caption and its number of tokens for each picture."""
        pixels = self._images(images=list(images), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            tokens = self._model.generate(
                pixel_values=pixels.to(self._device, self._model.dtype),
                max_new_tokens=self._new_tokens,
                do_sample=False,
                num_beams=1,
            ).tolist()
        framing = set(self._tokenizer.all_special_ids)
        texts = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        counts = (sum(token not in framing for token in row) for row in tokens)
        return [(" ".join(text.split()), count) for text, count in zip(texts, counts, strict=True)]

    def _finished(self, waiting: list[_Waiting]) -> Iterator[Answer]:
        """Yield the answers to the first questions whose captions are complete, and remove these questions."""
        while waiting and not waiting[0].missing:
            yield self._answer(waiting.pop(0))

    def _answer(self, entry: _Waiting) -> Answer:
        failures = [caption.failure for caption in entry.captions.values() if caption.failure]
        if failures or not entry.activating:
            return Answer(entry.neuron, "failed", reason=failures[0] if failures else "the neuron has no image to show")
        activating = [entry.captions[digest].text for digest in entry.activating]
        contrastive = [entry.captions[digest].text for digest in entry.contrastive]
        phrases = contrast_phrases(activating, contrastive, self._floor, self._most)
        own = [entry.captions[digest] for digest in entry.first]
        return Answer(
            entry.neuron,
            "answered" if phrases else "unparsed",
            raw=json.dumps({"activating": activating, "contrastive": contrastive}, ensure_ascii=False),
            texts=tuple(phrase for phrase, _ in phrases),
            scores=tuple(score for _, score in phrases),
            reason="" if phrases else _why_none(contrastive, self._floor),
            requests=len(own),
            completion_tokens=sum(caption.tokens for caption in own),
            seconds=sum(caption.seconds for caption in own),
        )


def _why_none(contrastive: Sequence[str], floor: float) -> str:
    but = ", but not the contrastive ones" if contrastive else ""
    return f"no noun or adjective fits the captions of the activating images{but} (score of at least {floor:g})"


def _digest(image: Image.Image) -> str:
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


# --- loading ----------------------------------------------------------------------------------------------------------


def _load(spec: str, device: torch.device) -> tuple[Any, str, Any, Any]:
    """Return a captioner's model, the hash of its weights, its image processor and its tokenizer."""
    library, _, name = spec.partition(":")
    if library != "transformers" or not name:
        raise ProposerError(
            f"the captioner {spec!r} names no library: write transformers:ORG/NAME or transformers:/local/directory"
        )
    directory = local_directory(name, ProposerError)
    source = name if directory is None else str(directory)
    try:
        _check_type(spec, source)
        model, revision = _model(source, device)
    except ProposerError:
        raise
    except Exception as exc:  # the library raises whatever its parts raise: hub, JSON, torch
        raise ProposerError(
            f"the captioner {spec} cannot be loaded (expected: a directory that save_pretrained wrote, or the id of a "
            f"model on a hub in reach or in its cache): {one_line(exc)}"
        ) from exc
    try:
        images, tokenizer = _processor(source)
    except Exception as exc:
        raise ProposerError(
            f"the captioner {spec} lacks its image processor or its tokenizer: put the files of the original model "
            f"next to its weights (preprocessor_config.json, tokenizer files): {one_line(exc)}"
        ) from exc
    return _ready(model, tokenizer), revision, images, tokenizer


def _check_type(spec: str, source: str) -> None:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ProposerError(
            f"{spec} is a {kind}, which does not caption images: name a captioner, for example a blip, blip-2, git or "
            "vision-encoder-decoder of transformers"
        )


def _model(source: str, device: torch.device) -> tuple[Any, str]:
    """Return a model and the hash of its stored weights, which does not depend on the device."""
    from transformers import AutoModelForImageTextToText

    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto", trust_remote_code=False)
    revision = hash_weights(model)
    if model.dtype != dtype:  # loaded again, not converted: the library knows which parts must stay in float32
        del model
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, trust_remote_code=False)
    return model, revision


def _processor(source: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, AutoTokenizer

    images = AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    return images, AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _ready(model: Any, tokenizer: Any) -> Any:
    """Set the tokens that end and pad a caption where the model's own settings lack them."""
    options = model.generation_config
    if options.eos_token_id is None:
        options.eos_token_id = tokenizer.eos_token_id
    if options.pad_token_id is None:
        options.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else options.eos_token_id
    return model
