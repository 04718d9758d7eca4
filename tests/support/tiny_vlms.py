"""Tiny vision-language models of the real classes, written to disk as hubs hold them; weights are random and seeded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LAYERS, WIDTH, CONTEXT = 2, 32, 4096
SIDE = 28  # of the pictures that towers with a fixed size look at

_SPECIAL = ["<pad>", "<bos>", "<eos>", "<user>", "<assistant>"]


def save_vlm(directory: Path, family: str, *, seed: int = 0, context: int = CONTEXT, shaken: bool = True) -> Path:
    """Write a model of a family with its processor; `shaken`: its answers hang on what it is shown."""
    from transformers import GenerationConfig

    torch.manual_seed(seed)
    processor, build = FAMILIES[family]()
    model = build(_text(processor.tokenizer, max_position_embeddings=context))
    if shaken:
        _shake(model, seed)
    model.generation_config = GenerationConfig(eos_token_id=2, pad_token_id=0, bos_token_id=1)
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return directory


def save_text_model(directory: Path, kind: str = "gpt2") -> Path:
    """Write a language model without eyes."""
    import transformers

    tokenizer = letters()
    if kind == "gpt2":
        config: Any = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=64)
        transformers.GPT2LMHeadModel(config).save_pretrained(directory)
    else:
        config = transformers.LlamaConfig(**_text(tokenizer))
        transformers.LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def save_captioner(directory: Path) -> Path:
    """Write a captioner: a model of images and text that cannot be told what to answer."""
    import transformers

    tokenizer = letters()
    text = {**_text(tokenizer), "encoder_hidden_size": WIDTH, "bos_token_id": 1, "sep_token_id": 2}
    config = transformers.BlipConfig(text_config=text, vision_config=_vision(), projection_dim=WIDTH)
    transformers.BlipForConditionalGeneration(config).save_pretrained(directory)
    images = transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE})
    transformers.BlipProcessor(images, tokenizer).save_pretrained(directory)
    return directory


def letters(**named: str) -> Any:
    """Return a tokenizer of single bytes; `named` are further special tokens, by the names processors look for."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [*_SPECIAL, *named.values()]
    vocabulary = {token: number for number, token in enumerate([*special, *alphabet])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    made.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=named,
        padding_side="right",  # as many are saved: whoever generates must turn it round
    )


def chat_template(picture: str) -> str:
    """Return a chat template in which a picture is written as `picture`."""
    return (
        "<bos>{% for message in messages %}<{{ message['role'] }}>{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + picture + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )


def _text(tokenizer: Any, **changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": WIDTH // 2,
        "max_position_embeddings": CONTEXT,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **changes,
    }


def _vision(**changes: Any) -> dict[str, Any]:
    size = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": LAYERS}
    return {**size, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 7, **changes}


def _shake(model: Any, seed: int) -> None:
    """Make the matrices large enough that what a model says hangs on what it is shown."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * (2.0 / parameter[0].numel() ** 0.5))


Built = tuple[Any, Callable[[dict[str, Any]], Any]]


def _llava() -> Built:
    import transformers as hf

    tokenizer = letters(image_token="<image>")
    processor = hf.LlavaProcessor(
        hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer,
        patch_size=7,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template("<image>"),
    )
    return processor, lambda text: hf.LlavaForConditionalGeneration(
        hf.LlavaConfig(
            vision_config=hf.CLIPVisionConfig(**_vision()),
            text_config=hf.LlamaConfig(**text),
            image_token_index=tokenizer.image_token_id,
            image_seq_length=16,
        )
    )


def _llava_onevision() -> Built:
    import transformers as hf

    tokenizer = letters(image_token="<image>", video_token="<video>")
    side = {"height": SIDE, "width": SIDE}
    pinpoints = [[SIDE, SIDE], [SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    processor = hf.LlavaOnevisionProcessor(
        hf.LlavaOnevisionImageProcessor(size=side, image_grid_pinpoints=pinpoints),
        tokenizer,
        hf.LlavaOnevisionVideoProcessor(size=side),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chat_template("<image>"),
    )
    return processor, lambda text: hf.LlavaOnevisionForConditionalGeneration(
        hf.LlavaOnevisionConfig(
            vision_config=hf.SiglipVisionConfig(**_vision(), vision_use_head=False),
            text_config=hf.Qwen2Config(**text),
            image_token_index=tokenizer.image_token_id,
            video_token_index=tokenizer.video_token_id,
            image_grid_pinpoints=pinpoints,
        )
    )


def _qwen(version: str) -> Built:
    import transformers as hf

    names = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_bos_token": "<|vision_start|>",
        "vision_eos_token": "<|vision_end|>",
    }
    tokenizer = letters(**names)
    old = version != "Qwen3"
    size = {"shortest_edge": SIDE * SIDE, "longest_edge": 4 * SIDE * SIDE}
    patches = {"patch_size": 7, "temporal_patch_size": 2, "merge_size": 2, "size": size}
    videos = (hf.Qwen2VLVideoProcessor if old else hf.Qwen3VLVideoProcessor)(**patches)
    template = chat_template("<|vision_start|><|image_pad|><|vision_end|>")
    make: Any = getattr(hf, f"{version}VLProcessor" if version != "Qwen2_5" else "Qwen2_5_VLProcessor")
    processor = make(hf.Qwen2VLImageProcessor(**patches), tokenizer, videos, chat_template=template)
    vision = {"depth": LAYERS, "num_heads": 2, "patch_size": 7, "spatial_merge_size": 2, "temporal_patch_size": 2}
    if version == "Qwen2":
        vision |= {"embed_dim": WIDTH, "hidden_size": WIDTH, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "out_hidden_size": WIDTH}
    if version == "Qwen2_5":
        vision |= {"window_size": 28, "fullatt_block_indexes": [1]}
    if version == "Qwen3":
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    prefix = {"Qwen2": "Qwen2VL", "Qwen2_5": "Qwen2_5_VL", "Qwen3": "Qwen3VL"}[version]
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config: Any = getattr(hf, f"{prefix}Config")
    model: Any = getattr(hf, f"{prefix}ForConditionalGeneration")
    return processor, lambda text: model(
        config(
            text_config={**text, "rope_parameters": rope},
            vision_config=vision,
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
            vision_start_token_id=tokenizer.vision_bos_token_id,
            vision_end_token_id=tokenizer.vision_eos_token_id,
        )
    )


def _idefics(smol: bool) -> Built:
    import transformers as hf

    rows = {f"row_{row}_{col}": f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)}
    tokenizer = letters(
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        end_of_utterance_token="<end_of_utterance>",
        **rows,
    )
    split = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
    template = chat_template("<image>")
    if smol:
        processor: Any = hf.SmolVLMProcessor(
            hf.SmolVLMImageProcessor(**split),
            tokenizer,
            hf.SmolVLMVideoProcessor(**split),
            image_seq_len=4,
            chat_template=template,
        )
    else:
        images = hf.Idefics3ImageProcessor(**split)
        processor = hf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)
    make: Any = hf.SmolVLMForConditionalGeneration if smol else hf.Idefics3ForConditionalGeneration
    config: Any = hf.SmolVLMConfig if smol else hf.Idefics3Config
    return processor, lambda text: make(
        config(
            vision_config=_vision(),
            text_config=hf.LlamaConfig(**text),
            image_token_id=processor.image_token_id,
            scale_factor=2,
            pad_token_id=0,
        )
    )


def _gemma3() -> Built:
    import transformers as hf

    tokenizer = letters(boi_token="<start_of_image>", eoi_token="<end_of_image>", image_token="<image_soft_token>")
    images = hf.Gemma3ImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = hf.Gemma3Processor(
        images, tokenizer, image_seq_length=4, chat_template=chat_template("<start_of_image>")
    )
    return processor, lambda text: hf.Gemma3ForConditionalGeneration(
        hf.Gemma3Config(
            text_config=hf.Gemma3TextConfig(**text, query_pre_attn_scalar=16, tie_word_embeddings=False),
            vision_config=hf.SiglipVisionConfig(**_vision(), vision_use_head=False),
            mm_tokens_per_image=4,
            tie_word_embeddings=False,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
            image_token_index=tokenizer.image_token_id,
        )
    )


def _internvl() -> Built:
    import transformers as hf

    tokenizer = letters(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    side = {"height": SIDE, "width": SIDE}
    processor = hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(size=side, max_patches=4),
        tokenizer,
        hf.InternVLVideoProcessor(size=side),
        image_seq_length=4,
        chat_template=chat_template("<IMG_CONTEXT>"),
    )
    return processor, lambda text: hf.InternVLForConditionalGeneration(
        hf.InternVLConfig(
            text_config=hf.Qwen2Config(**text),
            vision_config=hf.InternVLVisionConfig(**_vision(image_size=[SIDE, SIDE], patch_size=[7, 7])),
            image_token_id=tokenizer.context_image_token_id,
            image_seq_length=4,
            downsample_ratio=0.5,
        )
    )


FAMILIES: dict[str, Callable[[], Built]] = {
    "qwen2_vl": lambda: _qwen("Qwen2"),
    "qwen2_5_vl": lambda: _qwen("Qwen2_5"),
    "qwen3_vl": lambda: _qwen("Qwen3"),
    "internvl": _internvl,
    "smolvlm": lambda: _idefics(True),
    "idefics3": lambda: _idefics(False),
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "gemma3": _gemma3,
}
"""Every family, by transformers' word for it."""
