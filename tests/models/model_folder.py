"""A tiny random Llama and byte tokenizer, as a Hugging Face directory and as a GGUF file, for the tests here."""

from __future__ import annotations

from pathlib import Path

import gguf
import torch
from byte_tokens import TOKENS, byte_tokenizer
from gguf_names import GGUF_NAMES
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCAB = len(TOKENS) + 1


def tiny_llama(tied: bool = False, seed: int = 0, hidden: int = 48) -> LlamaForCausalLM:
    """`hidden` channels, 4 heads in 2 groups of size 16, MLP 64, 3 blocks, with norm gains far from 1."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=hidden,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=64,
        num_hidden_layers=3,
        vocab_size=VOCAB,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.15,
    )
    model = LlamaForCausalLM(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.3, 2.0)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """Of bytes, and a "th" it never makes."""
    return byte_tokenizer(["th"])


def write_folder(folder: Path, tied: bool = False) -> LlamaForCausalLM:
    model = tiny_llama(tied)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return model


def write_gguf(path: Path, model: LlamaForCausalLM, architecture: str = "llama", quantise: bool = False) -> None:
    """The file llama.cpp would make: rows of q and k interleaved, written here from its documented rule."""
    c = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_vocab_size(c.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    tokens = [*TOKENS, "th"]
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 257)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        stem = name.removesuffix(".weight")
        if stem.startswith("model.layers."):
            _, _, block, kind = stem.split(".", 3)
            target = f"blk.{block}.{GGUF_NAMES[kind]}.weight"
        else:
            kind, target = stem, f"{GGUF_NAMES[stem]}.weight"
        array = weight.numpy()
        heads = {"self_attn.q_proj": c.num_attention_heads, "self_attn.k_proj": c.num_key_value_heads}.get(kind)
        if heads:
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        if quantise and array.ndim == 2 and array.shape[1] % 32 == 0:
            packed = gguf.quants.quantize(array, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(target, array.copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
