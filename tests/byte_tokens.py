"""A byte-level tokenizer: three special tokens, one token a byte, and whatever is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOKENS = (*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()))


def byte_tokenizer(
    more: Sequence[str] = (), merges: Sequence[tuple[str, str]] = (), digits: bool = False
) -> PreTrainedTokenizerFast:
    """`TOKENS` by number, then `more`; begins with `<|im_start|>` (1), ends with `<|im_end|>` (2)."""
    core = Tokenizer(models.BPE({token: i for i, token in enumerate([*TOKENS, *more])}, list(merges)))
    split: Any = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if digits:
        split = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), split])
    core.pre_tokenizer = split
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIAL))
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=SPECIAL[1], eos_token=SPECIAL[2])
