"""Target: what can be judged: a deployed folder on the device it is for, or a plain Hugging Face directory."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from hwfit.deploy.bundle import load_bundle
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.runtime import OnnxModel
from hwfit.errors import HwfitError
from hwfit.evaluate.deployed import answers_file, open_cuda
from hwfit.evaluate.prefix_scorer import PrefixScorer
from hwfit.evaluate.scorer import Scorer
from hwfit.models.llama import load_config, load_weights, open_model, torch_model
from hwfit.packs import sha256

CONTEXT_STEP = 512
MARKER = "subnet.json"


class Judged(Scorer, Protocol):
    """A `Scorer` of known length that also continues a sequence."""

    max_context: int

    def prefill(self, ids: Sequence[int]) -> Any:
        """Logits `[vocab]` after the last of `ids`."""
        ...

    def decode(self, token: int) -> Any:
        """Append one token; logits `[vocab]` after it."""
        ...


@dataclass
class Target:
    """`folder` holds the tokenizer; `key` is the hash of all that the answers depend on; `max_context` in tokens.

    `open(context)` loads the model with room for `context` tokens; `scorer` does so at most once a context.
    """

    name: str
    kind: str
    device: str
    folder: Path
    key: str
    max_context: int
    open: Callable[[int], Judged]
    _opened: Judged | None = field(default=None, repr=False)

    def scorer(self, context: int = CONTEXT_STEP) -> Judged:
        """The model, with room for at least `context` tokens (but never more than `max_context`)."""
        wanted = min(context, self.max_context)
        if self._opened is None or self._opened.max_context < wanted:
            self._opened = None  # before the next one needs its memory
            self._opened = self.open(min(-(-wanted // CONTEXT_STEP) * CONTEXT_STEP, self.max_context))
        return self._opened

    def close(self) -> None:
        self._opened = None


def find_target(name: str, device: str = "cpu", threads: int = 2) -> Target:
    """What `name` stands for: a deployed folder or .onnx file, a known model, a Hugging Face directory or a hub id.

    Raises `HwfitError` for a device that is not there, or a name that is none of these.
    """
    if device not in ("cpu", "cuda"):
        raise HwfitError(f"--device '{device}'; allowed: cpu, cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise HwfitError("--device cuda: torch sees no GPU; allowed here: cpu")
    path = Path(name)
    if path.suffix == ".onnx" or (path / MARKER).is_file() or (path / "model.onnx").is_file():
        return _deployed(name, path, device, threads)
    return _hugging_face(name, open_model(name), device, threads)


def _deployed(name: str, path: Path, device: str, threads: int) -> Target:
    file = answers_file(device, path)
    folder, data = file.parent, file.with_name(f"{file.name}.data")
    parts = [file, *([data] if data.exists() else []), *_tokenizer_files(folder)]
    key = _hash(["deployed", device, *map(sha256, parts)])
    if device == "cuda":
        longest = int(load_config(folder).get("max_position_embeddings", 2048))
        return Target(name, "deployed", device, folder, key, longest, lambda context: open_cuda(folder, context))
    known = OnnxModel(file, threads).max_context
    has_weights = (folder / MARKER).is_file() and (folder / "config.json").is_file()
    longest = int(load_config(folder).get("max_position_embeddings", known)) if has_weights else known

    def open_onnx(context: int) -> Judged:
        if context <= known:
            return OnnxModel(file, threads)
        with tempfile.TemporaryDirectory(prefix="hwfit-") as temporary:  # the same graph with room for more tokens
            return OnnxModel(write_onnx(load_bundle(folder), Path(temporary) / file.name, context), threads)

    return Target(name, "deployed", device, folder, key, max(longest, known), open_onnx)


def _hugging_face(name: str, folder: Path, device: str, threads: int) -> Target:
    config = load_config(folder)
    longest = int(config.get("max_position_embeddings", 2048))
    parts = sorted([*folder.glob("*.safetensors"), folder / "config.json", *_tokenizer_files(folder)])
    key = _hash(["huggingface", device, *map(sha256, parts)])

    def open_torch(context: int) -> Judged:
        torch.set_num_threads(threads)
        model = torch_model(config, load_weights(folder)).to(device)  # pyright: ignore[reportArgumentType]
        return PrefixScorer(model, longest)

    return Target(name, "Hugging Face", device, folder, key, longest, open_torch)


def _tokenizer_files(folder: Path) -> list[Path]:
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "tokenizer_config.json")
    found = [folder / name for name in (*names, "chat_template.jinja") if (folder / name).exists()]
    if not found:
        raise HwfitError(f"{folder}: no tokenizer beside the model; one of {', '.join(names[:3])} is needed")
    return found


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()
