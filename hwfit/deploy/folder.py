"""Deployed folder: a bundle with its ONNX graph and tokenizer, ready to run anywhere ONNX Runtime does."""

from __future__ import annotations

from pathlib import Path

from hwfit.deploy.bundle import Bundle, load_bundle, save_bundle
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.origin import ORIGIN, Origin
from hwfit.deploy.staging import copy_into
from hwfit.errors import HwfitError

ONNX = "model.onnx"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_FILES = (
    *TOKENIZERS,
    *("tokenizer_config.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"),
    "generation_config.json",
)


def deploy(bundle: Bundle | Path, tokenizer: Path, folder: Path, max_context: int = 512) -> Path:
    """Write the bundle (read from its folder if a path), its graph and the tokenizer files of the model `tokenizer`."""
    if isinstance(bundle, Path):
        bundle = load_bundle(bundle)
    else:
        save_bundle(bundle, folder)
    copy_tokenizer(tokenizer, folder)
    write_onnx(bundle, folder / ONNX, max_context)
    return folder


def copy_tokenizer(model: Path, folder: Path) -> None:
    """Copy the tokenizer files there are, and where the model comes from. Raises `HwfitError` without a tokenizer."""
    if not any((model / name).exists() for name in TOKENIZERS):
        raise HwfitError(f"{model}: no tokenizer; one of {', '.join(TOKENIZERS)} is needed")
    copy_into([model / name for name in TOKENIZER_FILES if (model / name).exists()], folder)
    if not (folder / ORIGIN).exists():
        Origin.of(model).save(folder)


def onnx_path(folder: Path) -> Path:
    """The graph of a deployed folder. Raises `HwfitError` if it has none."""
    path = folder if folder.suffix == ".onnx" else folder / ONNX
    if not path.is_file():
        raise HwfitError(f"{folder}: no {ONNX} in it; write one with `hwfit export {folder}`")
    return path


def size_on_disk(folder: Path) -> int:
    """Bytes of the graph and its weights."""
    graph = onnx_path(folder)
    data = graph.with_name(f"{graph.name}.data")
    return graph.stat().st_size + (data.stat().st_size if data.exists() else 0)
