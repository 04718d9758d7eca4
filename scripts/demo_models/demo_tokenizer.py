"""Write the demo encoder's tokenizer: the standard CLIP byte-pair encoding, cut to the merges that its words need.

The result is a tokenizer directory as transformers saves it, self-contained, read by open_clip from the model's own
directory. Words of the demo get the very tokens that the full encoding gives them; any other word falls apart into
letters.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from open_clip.tokenizer import SimpleTokenizer, default_bpe, get_pairs
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE


def used_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Return the merges of the standard CLIP byte-pair encoding that these words need, in their order."""
    standard = SimpleTokenizer()
    with gzip.open(default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : 49152 - 256 - 2 + 1]
    ranks = {tuple(line.split()): i for i, line in enumerate(lines)}
    used: set[int] = set()
    for word in words:
        for part in standard.pat.findall(word):
            pieces = (*part[:-1], part[-1] + "</w>")
            while pairs := get_pairs(pieces) if len(pieces) > 1 else set():
                best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
                if best not in ranks:
                    break
                used.add(ranks[best])
                pieces = _merge(pieces, best)
    return [(left, right) for left, right in (lines[i].split() for i in sorted(used))]


def _merge(pieces: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)


def write_tokenizer(folder: Path, words: Sequence[str], context: int) -> int:
    """Write the cut tokenizer as a self-contained tokenizer directory; return the size of its vocabulary."""
    merges = used_merges(words)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # The end token must have the highest id: open_clip's text tower pools there.
    tokens = ["<pad>", *alphabet, *(letter + "</w>" for letter in alphabet), *(a + b for a, b in merges)]
    tokens += ["<start_of_text>", "<end_of_text>"]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(BPE(vocab=ids, merges=merges, end_of_word_suffix="</w>", unk_token="<pad>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<start_of_text>", "<end_of_text>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start_of_text> $A <end_of_text>",
        special_tokens=[(name, ids[name]) for name in ("<start_of_text>", "<end_of_text>")],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<start_of_text>",
        "eos_token": "<end_of_text>",
        "pad_token": "<pad>",
        "unk_token": "<pad>",
        "model_max_length": context,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return len(ids)
