"""Vision-language models of transformers: load one, and get its replies to pictures and a text.

The only file that knows transformers' image-text-to-text models (Qwen-VL, InternVL, SmolVLM, LLaVA, Gemma and similar
ones); the library is imported when a model is loaded. Knows nothing about neurons. Code in a model's repository is
never run. Decoding is greedy, so the same pictures and text give the same reply.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor

from csp_index.errors import ProposerError, one_line
from csp_index.models.hub import kept_files_if_alone, why_not_downloaded
from csp_index.models.weights import hash_weights, lasting, local_directory, resolve_device, stable_settings

_LIBRARY = "transformers"
_GRAY = Image.new("RGB", (64, 64), "grey")  # to test a model

# Their processors accept several pictures per message, but the models were trained on one: transformers' documentation
# of the LLaVA models says so, and the others have room for a single picture.
_TRAINED_ON_ONE = frozenset({"llava", "llava_next", "vipllava", "paligemma", "instructblip", "blip-2"})

# Sampling and steering options that a model's own configuration may set; greedy decoding uses none of them. The
# penalties would also count the padding, so that an answer would depend on its batch.
_NOT_GREEDY = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "max_length",
    "min_length",
    "min_new_tokens",
)

Form = Literal["parts", "string", "plain"]
"""How a message is written: pictures as parts of it, placeholders in its text, or no chat template at all."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message to a model: RGB pictures, followed by a text."""

    pictures: Sequence[Image.Image]
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply: the new text alone. `cut` is true if the limit on new tokens stopped it."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool


class ChatModel:
    """A vision-language model on a device, ready to answer.

    `name` is its spec, with an absolute directory; `revision` identifies its weights, the preparation of its input, and
    the commit if it came from a hub; `several` says whether a message may have two pictures.
    """

    def __init__(self, spec: str, *, device: str = "auto") -> None:
        """Load the model `transformers:ID_OR_DIRECTORY`. Errors: ProposerError for a model that is unusable."""
        library, _, name = spec.partition(":")
        if library != _LIBRARY or not name:
            raise ProposerError(
                f"the vision-language model {spec!r} names no library: write transformers:ORG/NAME or "
                "transformers:/local/directory"
            )
        directory = local_directory(name, ProposerError)
        source = name if directory is None else str(directory)
        self.name = lasting(spec)
        self.device = resolve_device(device)
        try:
            with kept_files_if_alone(source):
                self._context = _context(spec, source)
                self._processor = _processor(spec, source)
                self._model, weights = _model(source, _dtype(self.device))
        except ProposerError:
            raise
        except Exception as exc:  # the library raises whatever its parts raise: hub, JSON, torch
            raise ProposerError(_cannot_load(spec, exc)) from exc
        self._template = _template(self._processor)
        self._image_token = getattr(self._processor, "image_token", None)
        self._tokenizer = _padded_left(self._processor.tokenizer)
        self._ends = _decode_greedily(self._model, self._tokenizer)
        self._form = self._choose_form(spec)
        self.revision = f"{weights}+{self._preparation()}" + _commit(source if directory is None else None)
        self._put(spec)
        self._try_one(spec)
        self.several = self._takes_two()

    def say(self, messages: Sequence[Message], new_tokens: int) -> list[Reply]:
        """Return a reply to each message; the messages form one batch.

        Errors: ProposerError if a prompt does not fit the model's context; else whatever the library raises for
        pictures that it cannot prepare, or for a lack of memory.
        """
        inputs = self._inputs(messages)
        length = inputs["input_ids"].shape[1]
        if self._context is not None and length + new_tokens > self._context:
            raise ProposerError(
                f"the prompt has {length} tokens with its pictures, and {new_tokens} may follow: the model's limit is "
                f"{self._context}; show fewer images or smaller cells"
            )
        inputs = inputs.to(self.device, dtype=self._model.dtype)  # integers keep their dtype
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, max_new_tokens=new_tokens).cpu()
        if torch.equal(tokens[:, :length], inputs["input_ids"].cpu()):  # not with an encoder-decoder model
            tokens = tokens[:, length:]
        prompts = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._reply(row, int(count), new_tokens) for row, count in zip(tokens, prompts, strict=True)]

    def _reply(self, tokens: Tensor, prompt_tokens: int, new_tokens: int) -> Reply:
        ends = [position for position, token in enumerate(tokens.tolist()) if token in self._ends]
        reply = tokens[: ends[0] + 1] if ends else tokens
        text = self._tokenizer.decode(reply, skip_special_tokens=True)
        return Reply(text, prompt_tokens, len(reply), cut=not ends and len(reply) >= new_tokens)

    def _inputs(self, messages: Sequence[Message]) -> Any:
        """Return the model's inputs for a batch, padded on the left, on the CPU."""
        texts = [self._write(len(message.pictures), message.text, self._form) for message in messages]
        begin = getattr(self._tokenizer, "bos_token", None)
        return self._processor(
            text=texts,
            images=[[self._fit(picture) for picture in message.pictures] for message in messages],
            padding=True,
            # A template that writes the start token must not get a second one.
            add_special_tokens=not (begin and texts[0].startswith(begin)),
            return_tensors="pt",
        )

    def _fit(self, picture: Image.Image) -> Image.Image:
        """Return a picture with a white border that makes it square, if the processor would crop its sides."""
        width, height = picture.size
        if width == height or not getattr(self._processor.image_processor, "do_center_crop", False):
            return picture
        side = max(width, height)
        sheet = Image.new("RGB", (side, side), "white")
        sheet.paste(picture, ((side - width) // 2, (side - height) // 2))
        return sheet

    def _write(self, pictures: int, text: str, form: Form) -> str:
        """Return a message as the model reads it, with one placeholder per picture, up to the start of the reply."""
        marked = f"{(self._image_token or '') * pictures}\n{text}"
        if form == "plain":
            return marked
        parts = [*({"type": "image"} for _ in range(pictures)), {"type": "text", "text": text}]
        # A thinking model would spend its few tokens on thoughts; a template without the option must not get it.
        options = {"enable_thinking": False} if "enable_thinking" in str(self._template) else {}
        written: str = self._processor.apply_chat_template(
            [{"role": "user", "content": parts if form == "parts" else marked}],
            chat_template=self._template,
            add_generation_prompt=True,
            tokenize=False,
            **options,
        )
        return written

    def _choose_form(self, spec: str) -> Form:
        """Return the first form in which the text has a picture's placeholder."""
        token = self._image_token
        if self._template is not None:
            forms: tuple[Form, ...] = ("parts", "string") if token else ("parts",)
            for form in forms:
                with suppress(Exception):  # templates may raise anything for an unknown form
                    if not token or self._write(1, "?", form).count(token) == 1:
                        return form
        if token:
            return "plain"
        raise ProposerError(
            f"{spec} has no chat template and no placeholder for pictures, so it cannot be asked about them: "
            "use a model that only captions with --captioner"
        )

    def _try_one(self, spec: str) -> None:
        try:
            self.say([Message([_GRAY], "?")], 1)
        except Exception as exc:  # the library raises whatever its parts raise
            raise ProposerError(
                f"{spec} cannot answer about a small gray test picture on {self.device}: {one_line(exc)}"
            ) from exc

    def _takes_two(self) -> bool:
        if self._model.config.model_type in _TRAINED_ON_ONE:
            return False
        try:
            self._inputs([Message([_GRAY, _GRAY], "?")])
        except Exception:  # the library raises whatever its parts raise
            return False
        return True

    def _preparation(self) -> str:
        """Return a hash, 16 hexadecimal digits, of what turns a message into the model's input."""
        settings = f"{stable_settings(self._processor)}\n{self._template}\n{self._form}"
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    def _put(self, spec: str) -> None:
        try:
            self._model.requires_grad_(False).eval().to(self.device)
        except RuntimeError as exc:  # raised by torch for a lack of memory
            raise ProposerError(f"{spec} does not fit on {self.device}: {one_line(exc)}") from exc


def _context(spec: str, source: str) -> int | None:
    """Return the number of tokens of a model's context, None if its configuration does not say.

    Errors: ProposerError for a model that does not take images and text.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    kind = config.model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        text_only = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        reason = "a model of text only" if text_only else "a model that does not answer in text"
        raise ProposerError(
            f"{spec} is a {kind}, {reason}: name a vision-language model, one of those that transformers lists "
            "under image-text-to-text"
        )
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None


def _processor(spec: str, source: str) -> Any:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    missing = [part for part in ("image_processor", "tokenizer") if getattr(processor, part, None) is None]
    if missing:  # the library then returns the tokenizer, or another part
        raise ProposerError(
            f"{spec} has no processor for images and text (it lacks {' and '.join(missing)}): put the files of the "
            "original model next to its weights (processor_config.json, preprocessor_config.json, tokenizer files)"
        )
    return processor


def _model(source: str, dtype: torch.dtype) -> tuple[Any, str]:
    """Return a model in a dtype, and the hash of its stored weights, which does not depend on the device."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(source, dtype="auto", trust_remote_code=False)
    weights = hash_weights(model)
    if model.dtype != dtype:
        # Loaded again rather than converted: the library knows which parts must stay in float32.
        del model
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, trust_remote_code=False)
    return model, weights


def _dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def _template(processor: Any) -> Any:
    """Return the chat template: the processor's own, else its tokenizer's, else None."""
    own = getattr(processor, "chat_template", None)
    template = own if own is not None else getattr(processor.tokenizer, "chat_template", None)
    return template.get("default") if isinstance(template, dict) else template


def _padded_left(tokenizer: Any) -> Any:
    """Make a tokenizer pad on the left, because a reply follows the end of a row."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _decode_greedily(model: Any, tokenizer: Any) -> frozenset[int]:
    """Make a model decode greedily; return the tokens that end an answer."""
    options = model.generation_config
    for name in _NOT_GREEDY:
        setattr(options, name, None)
    options.do_sample, options.num_beams = False, 1
    if options.eos_token_id is None:
        options.eos_token_id = tokenizer.eos_token_id
    if options.pad_token_id is None:
        options.pad_token_id = tokenizer.pad_token_id
    ends = options.eos_token_id
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _commit(hub_id: str | None) -> str:
    """Return `@` and the hub's commit that a model was loaded from, or ""."""
    from huggingface_hub import try_to_load_from_cache

    path = None if hub_id is None else try_to_load_from_cache(hub_id, "config.json")
    return f"@{Path(path).parent.name}" if isinstance(path, str) else ""


def _cannot_load(spec: str, exc: Exception) -> str:
    message = str(exc)
    if "trust_remote_code" in message or "custom code" in message:
        return f"{spec} needs code from its repository, which is never run: name a version that transformers supports"
    return (
        f"the vision-language model {spec} cannot be loaded (expected: a directory that save_pretrained wrote, or the "
        f"id of a model on a hub in reach or in its cache): {why_not_downloaded(exc) or one_line(exc)}"
    )
