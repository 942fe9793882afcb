"""GGUF export: one file for llama.cpp, each tensor in the type that holds its grid (`gguf_types`).

A Llama whose MLP widths differ between blocks is written as the architecture `deci`, which llama.cpp computes as a
Llama with a width for each block.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from gguf import GGML_QUANT_VERSION, GGUFWriter, LlamaFileType
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from hwfit.deploy.bundle import FP8, Bundle, norm_names, weight_specs
from hwfit.deploy.config_check import config_problems
from hwfit.deploy.gguf_tokenizer import read_vocabulary
from hwfit.deploy.gguf_types import typed
from hwfit.deploy.origin import Origin
from hwfit.errors import raise_all
from hwfit.files import replacing
from hwfit.kernels.quantise import Grid, Quantised, dequantise, fake_quantise
from hwfit.rotary import Rotary

GGUF = "model.gguf"
_LINEARS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_FILE_TYPES = {
    Type.F32: LlamaFileType.ALL_F32,
    Type.F16: LlamaFileType.MOSTLY_F16,
    Type.Q4_0: LlamaFileType.MOSTLY_Q4_0,
    Type.Q4_1: LlamaFileType.MOSTLY_Q4_1,
    Type.Q8_0: LlamaFileType.MOSTLY_Q8_0,
    Type.Q2_K: LlamaFileType.MOSTLY_Q2_K,
}


@dataclass
class _Kept:
    """What became of the weights of one precision: relative squared error is `lost / total`."""

    count: int = 0
    lost: float = 0.0
    total: float = 0.0


def problems(bundle: Bundle) -> list[str]:
    return config_problems(bundle.config, "in GGUF export")


def nearest(bundle: Bundle) -> tuple[Bundle, list[str]]:
    """The bundle itself: GGUF holds every width and precision."""
    return bundle, []


def write_gguf(bundle: Bundle, tokenizer: Path, folder: Path) -> list[str]:
    """Write `model.gguf` of a bundle without `problems`; notes on the types and what they change.

    Raises `HwfitError` for a tokenizer that llama.cpp's metadata does not describe.
    """
    raise_all(problems(bundle))
    s = bundle.subnet
    vocabulary = read_vocabulary(tokenizer, bundle.config, s.vocab)
    kept: dict[tuple[str, Type], _Kept] = {}
    with replacing(folder / GGUF) as temporary:
        writer = GGUFWriter(temporary, "llama" if len(set(s.mlp)) == 1 else "deci")
        types = _add_tensors(writer, bundle, kept)
        _add_keys(writer, bundle, Origin.of(tokenizer), types.most_common(1)[0][0])
        vocabulary.write(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    notes = [
        f"{k.count} weights at {name} -> {kind.name}, which changes them by {_percent(k)} (root mean square)"
        for (name, kind), k in sorted(kept.items())
    ]
    notes += [
        f"transformers does not read this file right, llama.cpp does: {why}" for why in _beyond_transformers(bundle)
    ]
    return [*notes, "activations are rounded as llama.cpp does (int8 in blocks of 32 or 256 of a row)"]


def _beyond_transformers(bundle: Bundle) -> list[str]:
    s = bundle.subnet
    found = [f"it takes no Llama of hidden size {s.hidden} and {s.heads} heads"] if s.hidden % s.heads else []
    found += ["it takes no MLP widths that differ between blocks"] if len(set(s.mlp)) > 1 else []
    return found + (["it ignores rope_freqs, the stretch of the rotary"] if Rotary.of(bundle.config).stretch else [])


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    module = name.removesuffix(".weight")
    if module in _OUTER:
        return f"{_OUTER[module]}.weight"
    return f"blk.{module.split('.')[2]}.{_LINEARS[module.rpartition('.')[2]]}.weight"


def side_by_side(weight: Tensor | Quantised, heads: int) -> Tensor | Quantised:
    """Rows of each head from (x0, x1, …, y0, y1, …) to (x0, y0, x1, y1, …): rotary pairs as llama.cpp has them."""
    n = weight.shape[0]
    order = torch.arange(n).view(heads, 2, n // heads // 2).transpose(1, 2).flatten()
    if not isinstance(weight, Quantised):
        return weight[order]
    zeros = None if weight.grid.zeros is None else weight.grid.zeros[order]
    return replace(weight, codes=weight.codes[order], grid=Grid(weight.grid.scales[order], zeros))


def _add_tensors(writer: GGUFWriter, bundle: Bundle, kept: dict[tuple[str, Type], _Kept]) -> Counter[Type]:
    s, types = bundle.subnet, Counter[Type]()
    for name in norm_names(s):
        writer.add_tensor(gguf_name(name), bundle.tensors[name].float().numpy())  # pyright: ignore
    for name, (_, _, p) in weight_specs(s).items():
        weight = bundle.tensors[name]
        if p.float8:
            weight = fake_quantise(weight.float(), FP8).half()  # pyright: ignore[reportAttributeAccessIssue]
        if pairs := {"q_proj": s.heads, "k_proj": s.kv_heads}.get(name.split(".")[-2]):
            weight = side_by_side(weight, pairs)
        made = typed(weight)
        plain = (dequantise(weight) if isinstance(weight, Quantised) else weight.float()).numpy()
        account = kept.setdefault((p.name, made.type), _Kept())
        account.count += 1
        account.lost += float(np.square(made.values() - plain, dtype=np.float64).sum())
        account.total += float(np.square(plain, dtype=np.float64).sum())
        types[made.type] += plain.size
        writer.add_tensor(gguf_name(name), made.data, raw_dtype=made.type)
    rotary = Rotary.of(bundle.config)
    if rotary.stretch:
        plain_frequencies = rotary.theta ** (-np.arange(0, s.head_size, 2, dtype=np.float64) / s.head_size)
        factors = plain_frequencies / rotary.stretch(plain_frequencies)
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    return types


def _add_keys(writer: GGUFWriter, bundle: Bundle, origin: Origin, most: Type) -> None:
    s, config = bundle.subnet, bundle.config
    writer.add_name(f"{origin.name or 'model'} fitted by hwfit")
    if origin.licence:
        writer.add_license(origin.licence)
    if origin.description:
        writer.add_description(origin.description)
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_file_type(int(_FILE_TYPES[most]))
    writer.add_context_length(int(config.get("max_position_embeddings") or 2048))
    writer.add_block_count(len(s.blocks))
    writer.add_embedding_length(s.hidden)
    writer.add_feed_forward_length(s.mlp[0] if len(set(s.mlp)) == 1 else list(s.mlp))
    writer.add_head_count(s.heads)
    writer.add_head_count_kv(s.kv_heads)
    writer.add_key_length(s.head_size)
    writer.add_value_length(s.head_size)
    writer.add_rope_dimension_count(s.head_size)
    writer.add_rope_freq_base(Rotary.of(config).theta)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_vocab_size(s.vocab)


def _percent(kept: _Kept) -> str:
    share = math.sqrt(kept.lost / kept.total) if kept.total else 0.0
    return "nothing" if share == 0 else f"{share:.2g}" if share < 1e-4 else f"{share:.2%}"
