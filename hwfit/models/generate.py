"""Self-generated text: what the original writes when it is left to itself, as training data (arXiv 2305.17888)."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.files import replacing
from hwfit.models.llama import load_config, load_tokenizer, load_weights, torch_model
from hwfit.models.text import end_of_text
from hwfit.progress import track

SELF_GENERATED = "self-generated"
BATCH = 8


@torch.no_grad()
def generated(
    model: Path,
    rows: int,
    seq: int,
    cache: Path,
    seed: int = 0,
    progress: bool = True,
    temperature: float = 1.0,
    device: torch.device | None = None,
) -> Tensor:
    """`rows` sequences of `seq` token ids sampled from the original, each from the end-of-text token on.

    -> LongTensor[rows, seq] on the CPU. Every batch is kept under `cache` as it is done, and not written again.
    """
    device = device or torch.device("cpu")
    start = end_of_text(load_tokenizer(model))
    digest = hashlib.sha256(repr((model.name, seq, seed, temperature, BATCH)).encode()).hexdigest()[:16]
    paths = [cache / f"generated-{digest}-{first}.safetensors" for first in range(0, rows, BATCH)]
    missing = [path for path in paths if not path.exists()]
    if missing:
        weights = {name: w.to(device) for name, w in load_weights(model).items()}
        llama: Any = torch_model(load_config(model), weights)
        llama.model.rotary_emb.to(device)  # made where the CPU is; the weights are there already
        options = {"do_sample": True, "temperature": temperature, "top_k": 0, "pad_token_id": start}
    with track(len(paths), "Text of the original's own", progress) as advance:
        for i, path in enumerate(paths):
            if path in missing:
                with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                    torch.manual_seed(seed * 1_000_003 + i)
                    prompt = torch.full((BATCH, 1), start, device=device)
                    ids = llama.generate(
                        prompt,
                        attention_mask=torch.ones_like(prompt),
                        min_new_tokens=seq - 1,
                        max_new_tokens=seq - 1,
                        eos_token_id=None,
                        **options,
                    )
                with replacing(path) as temporary:
                    safetensors.torch.save_file({"ids": ids.cpu().contiguous()}, temporary)
            advance()
    return torch.cat([_read(path) for path in paths])[:rows]


def _read(path: Path) -> Tensor:
    try:
        return safetensors.torch.load_file(path)["ids"]
    except (SafetensorError, KeyError, OSError) as error:
        raise HwfitError(f"{path}: damaged text ({error}); delete it to have it written again") from error
