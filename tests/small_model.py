"""A small random Llama as a Hugging Face directory with a trained tokenizer, for runs of whole commands."""

from __future__ import annotations

import random
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = re.findall(
    r"\w+", "the a cat dog sat ran on under mat tree and then quickly slowly red blue small large it was not"
)


def sentences(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(6, 20))) + "." for _ in range(count)]


def write_small_model(folder: Path) -> Path:
    """hidden 192, 6 heads on 3 KV heads of 32, MLP 256, 6 blocks; `text.txt` beside the model is its training text."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(sentences(400), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=192,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=32,
        intermediate_size=256,
        num_hidden_layers=6,
        vocab_size=512,
        tie_word_embeddings=False,
        max_position_embeddings=1024,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    (folder / "text.txt").write_text("\n\n".join(sentences(12000, seed=1)))
    return folder
