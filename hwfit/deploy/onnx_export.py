"""ONNX export: the graph with its tokenizer and a script that generates text with nothing but ONNX Runtime."""

from __future__ import annotations

import shutil
from pathlib import Path

from hwfit.deploy import onnx_runner
from hwfit.deploy.bundle import Bundle, weight_specs
from hwfit.deploy.folder import ONNX, copy_tokenizer
from hwfit.deploy.onnx_graph import unsupported, write_onnx
from hwfit.deploy.regrid import holds, regridded
from hwfit.deploy.slice import EMBED
from hwfit.kernels import ort_cpu
from hwfit.precision import KNOWN, Precision

RUNNER = "generate.py"
_RUN = [p for p in map(Precision.parse, KNOWN) if not p.is_float and not ort_cpu.precision_why_not(p)]


def problems(bundle: Bundle, max_context: int = 512) -> list[str]:
    """Why ONNX Runtime's CPU provider does not run the bundle, one line each."""
    found = unsupported(bundle, max_context)
    held = nearest_precisions(bundle)
    hint = f"--nearest writes {len(held)} weights at other precisions with kernels, the same weights"
    return [*found, hint] if held and found else found


def nearest_precisions(bundle: Bundle) -> dict[str, Precision]:
    """Weight name -> the smallest precision with a kernel that holds it, for those whose own has none; else `w32`."""
    chosen: dict[str, Precision] = {}
    for name, (_, k, p) in weight_specs(bundle.subnet).items():
        why_not = ort_cpu.embed_why_not if name == f"{EMBED}.weight" else ort_cpu.precision_why_not
        if why_not(p):
            fits = [r for r in _RUN if holds(r, p, k) and not k % (r.group or 1) and not why_not(r)]
            chosen[name] = min(fits, key=lambda r, k=k: r.weight_bytes(1, k), default=Precision.parse("w32"))
    return chosen


def nearest(bundle: Bundle) -> tuple[Bundle, list[str]]:
    chosen = nearest_precisions(bundle)
    if not chosen:
        return bundle, []
    found, more = regridded(bundle, chosen)
    note = f"{len(chosen)} weights at another precision than searched, with the same values: {more} bytes"
    old = {name: p for name, (_, _, p) in weight_specs(bundle.subnet).items()}
    rounds = sum(p.act_bits == 8 < old[name].act_bits for name, p in chosen.items())
    return found, [note, *([f"activations of {rounds} of them are rounded to 8 bits"] if rounds else [])]


def write_onnx_folder(bundle: Bundle, tokenizer: Path, folder: Path, max_context: int = 512) -> list[str]:
    """Write the graph, the tokenizer and the runner; notes on the graph."""
    copy_tokenizer(tokenizer, folder)
    shutil.copyfile(Path(onnx_runner.__file__), folder / RUNNER)
    write_onnx(bundle, folder / ONNX, max_context)
    return [f"at most {max_context} tokens of prompt and answer (--max-context)"]
