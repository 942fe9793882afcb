"""Target: a valid small file of some kind, and the public reader it goes through; and a subnet that files tell of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fuzz.forms import Form
from hwfit.subnet import ModelShape, Subnet

OUT = "out"
"""Where, in its folder, a reader may write."""
SHAPE = ModelShape(hidden=64, heads=4, kv_heads=2, head_size=16, mlp=64, blocks=2, vocab=32)
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": SHAPE.hidden,
    "num_attention_heads": SHAPE.heads,
    "num_key_value_heads": SHAPE.kv_heads,
    "head_dim": SHAPE.head_size,
    "intermediate_size": SHAPE.mlp,
    "num_hidden_layers": SHAPE.blocks,
    "vocab_size": SHAPE.vocab,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
    "rope_theta": 5000.0,
    "tie_word_embeddings": True,
}
SUBNET = Subnet.whole(SHAPE, "w4a8g32", "w8a8")


@dataclass(frozen=True)
class Target:
    """`write` makes valid files in a folder; `read` reads them again. `forms` of the files to damage, by pattern.

    Without `refuses` a damaged file counts as none, and is no error.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], object]
    forms: Mapping[str, Form]
    refuses: bool = True
