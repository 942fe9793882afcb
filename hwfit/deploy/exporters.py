"""Exporters: every format a bundle can be written in, with what it cannot hold and the nearest that it can."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hwfit import __version__
from hwfit.deploy import compressed, compressed_symmetric, gguf, hf, onnx_export
from hwfit.deploy.bundle import Bundle
from hwfit.deploy.folder import ONNX
from hwfit.deploy.staging import MARK, folder_bytes, whole_files, whole_folder
from hwfit.errors import HwfitError, nearest, raise_all
from hwfit.files import write_text

CARD = "README.md"
Nearest = Callable[[Bundle], tuple[Bundle, list[str]]]


@dataclass(frozen=True)
class Exporter:
    """A format. `opens` is the file another tool is given, or "" for the folder; `write` takes a bundle without
    `problems`, the folder its tokenizer is in and the folder to fill, and tells what differs from the bundle."""

    tool: str
    opens: str
    problems: Callable[[Bundle], list[str]]
    nearest: Nearest
    write: Callable[[Bundle, Path, Path], list[str]]
    how: str
    """What a user types to run it; `{path}` is what `opens` names."""


@dataclass(frozen=True)
class Exported:
    """What was written, in `bytes`: `bundle` is the one asked for or the nearest that the format holds."""

    format: str
    exporter: Exporter
    bundle: Bundle
    folder: Path
    bytes: int
    notes: tuple[str, ...]

    @property
    def path(self) -> Path:
        return self.folder / self.exporter.opens


def exporters(max_context: int = 512) -> dict[str, Exporter]:
    """Every format by name; `max_context` is for ONNX, whose cache has a length."""
    hf_how = 'AutoModelForCausalLM.from_pretrained("{path}")'
    return {
        "onnx": Exporter(
            "ONNX Runtime",
            ONNX,
            partial(onnx_export.problems, max_context=max_context),
            onnx_export.nearest,
            partial(onnx_export.write_onnx_folder, max_context=max_context),
            'python generate.py "Once upon a time"',
        ),
        "hf": Exporter("transformers", "", hf.uneven_problems, hf.evened, hf.write_hf, hf_how),
        "compressed-tensors": Exporter(
            "vLLM",
            "",
            compressed.problems,
            compressed.nearest,
            compressed.write_compressed,
            "vllm serve {path}",
        ),
        "compressed-tensors-symmetric": Exporter(
            "transformers with the package compressed-tensors, or vLLM",
            "",
            compressed_symmetric.problems,
            compressed_symmetric.nearest,
            compressed_symmetric.write_symmetric,
            hf_how,
        ),
        "gguf": Exporter("llama.cpp", gguf.GGUF, gguf.problems, gguf.nearest, gguf.write_gguf, "llama-cli -m {path}"),
    }


FORMATS = tuple(exporters())


def find_exporter(format: str, max_context: int = 512) -> Exporter:
    """Raises `HwfitError` for a format that is not one of `FORMATS`."""
    if format not in FORMATS:
        raise HwfitError(f"--format '{format}' is unknown; {nearest(format, FORMATS)}")
    return exporters(max_context)[format]


def export_bundle(
    bundle: Bundle,
    tokenizer: Path,
    out: Path,
    format: str,
    take_nearest: bool = False,
    max_context: int = 512,
    card: Callable[[Exported], str] | None = None,
) -> Exported:
    """Write `bundle` in `format` to the folder `out`, which appears whole or not at all; an earlier export there is
    replaced. A folder that holds the bundle itself (`tokenizer`) gets the files beside it.

    `card` makes the model card of what was written. Raises `HwfitError` listing everything that the format cannot
    hold, unless `take_nearest` and there is something near.
    """
    exporter = find_exporter(format, max_context)
    changed: list[str] = []
    if take_nearest:
        bundle, changed = exporter.nearest(bundle)
    raise_all(exporter.problems(bundle))
    beside = out.resolve() == tokenizer.resolve()
    if beside and not exporter.opens:
        raise HwfitError(
            f"--out {out}: holds the bundle itself, whose config.json and weights --format {format} would "
            f"replace; give another folder, such as {out / format}"
        )
    with whole_files(out, exporter.opens) if beside else whole_folder(out) as folder:
        notes = changed + exporter.write(bundle, tokenizer, folder)
        exported = Exported(format, exporter, bundle, out, folder_bytes(folder), tuple(notes))
        if card:
            write_text(folder / CARD, card(exported))
        if not beside:  # a folder with the mark may be replaced
            write_text(folder / MARK, _mark(exported))
    return exported


def _mark(exported: Exported) -> str:
    subnet = json.loads(exported.bundle.subnet.to_json())
    told = {"hwfit": __version__, "format": exported.format, "opens": exported.exporter.opens}
    return json.dumps({**told, "notes": exported.notes, "subnet": subnet}, indent=1)
