"""aiconfigurator: NVIDIA's published GPU measurements as a table of ours, so that a GPU nobody here owns can be priced.

The pinned wheel holds one CSV an operation, framework and version. What was timed, and how, is theirs: one latency a
cell, no interval, and no word on caches or clocks. Every row says so in `backend` and `kernel`, and each framework
version is a device of its own, because the same GPU under two libraries differs by several per cent.

    gemm_dtype   precision   what ran (TensorRT-LLM)
    float16      w16a16      cuBLAS through torch
    int8_wo      w8a16       weight-only GEMM, one scale an output channel
    int4_wo      w4a16       weight-only GEMM, one scale an output channel
    sq           w8a8        SmoothQuant int8 GEMM; activations are int8 already, rounding them is not in the time
    fp8          fp8         e4m3 GEMM; likewise
    others       left out    no precision of ours (fp8 in 128 x 128 blocks, fp4)

    context_attention     prefill attention of `batch_size` prompts of `isl` tokens
    generation_attention  one new token a sequence against `step` cached ones and itself

Attention is kept at 16-bit keys and values, without a sliding window. Decode at batch >= context cannot be told from
prefill by its sizes (see `kernels.op.sequences`) and is left out.
"""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from hwfit.errors import HwfitError, nearest
from hwfit.kernels.op import Op, linear
from hwfit.lut_store.facts import Facts
from hwfit.lut_store.importing import imported_row, imported_run
from hwfit.lut_store.schema import Measurement
from hwfit.lut_store.table import Table
from hwfit.packs import AICONFIGURATOR, wheel

PRECISIONS = {"float16": "w16a16", "int8_wo": "w8a16", "int4_wo": "w4a16", "sq": "w8a8", "fp8": "fp8"}
CHIPS = {"a100_sxm": (108, 40), "h100_sxm": (132, 50), "h200_sxm": (132, 50), "l40s": (142, 96)}
"""Multiprocessors and MB of L2 from NVIDIA's data sheets; the wheel's own YAML has bandwidth and rates."""
ROOT = "aiconfigurator/systems"
DEFAULT_FRAMEWORK = "trtllm"
NOTE = "latency as published, without an interval"


@dataclass(frozen=True)
class Imported:
    """One device written to a table: its key, how many cells, and how many rows of what were left out."""

    device: str
    cells: int
    left_out: dict[str, int]


def device_names() -> list[str]:
    """GPUs that can be imported, as `--device` takes them."""
    return [chip.replace("_", "-") for chip in CHIPS]


def import_aiconfigurator(
    device: str, table: Table, framework: str = DEFAULT_FRAMEWORK, version: str | None = None, progress: bool = True
) -> list[Imported]:
    """Write the measurements of `device` (such as `a100-sxm`) under `framework`, each version as a device of its own.

    All versions unless one is named. Rows already there with the same values are not written again. Raises
    `HwfitError` for an unknown device, framework or version (naming those there are) and for a damaged row (file, row,
    column).
    """
    if device not in device_names():
        raise HwfitError(
            f"--device {device} is not among aiconfigurator's; {nearest(device, device_names())}. Measure a GPU of "
            "your own with `hwfit profile MODEL --device cuda`, or import its numbers from a CSV"
        )
    chip = device.replace("-", "_")
    with zipfile.ZipFile(wheel(AICONFIGURATOR, progress)) as archive:
        folder = f"{ROOT}/data/{chip}"
        there = _versions(archive, folder)
        if framework not in there:
            raise HwfitError(f"--framework {framework}: no tables of {device} under it; {nearest(framework, there)}")
        if version is not None and version not in there[framework]:
            raise HwfitError(f"--version {version}: no such tables of {device}; {nearest(version, there[framework])}")
        facts = _facts(archive, chip)
        versions = there[framework] if version is None else [version]
        return [
            _import(archive, f"{folder}/{framework}/{v}", f"{device}-{framework}-{v}", facts, table) for v in versions
        ]


def _import(archive: zipfile.ZipFile, folder: str, key: str, facts: Facts, table: Table) -> Imported:
    left_out: Counter[str] = Counter()
    rows: list[Measurement] = []
    framework, version = folder.split("/")[-2:]
    backend = f"{AICONFIGURATOR.requirement} {framework} {version}"
    source = {"source": AICONFIGURATOR.requirement, "sha256": AICONFIGURATOR.sha256, "folder": folder}
    source["licence"] = AICONFIGURATOR.licence
    run = imported_run(f"aic-{AICONFIGURATOR.version}-{key}", key, source, facts, {framework: version})
    known = table.known(key)
    for name, ops_of in READERS.items():
        path = f"{folder}/{name}_perf.txt"
        if path not in archive.namelist():
            left_out[f"{name}: not in the package"] += 1
            continue
        for op, seconds, kernel in _read(archive, path, ops_of, left_out):
            if op not in known:
                rows.append(imported_row(op, run, backend=backend, kernel=kernel, p10=seconds, note=NOTE))
    if rows:
        table.append(rows, run)
    return Imported(key, len(rows), dict(left_out))


Reader = Callable[[dict[str, Any]], Op | str]


def _read(
    archive: zipfile.ZipFile, path: str, ops_of: Reader, left_out: Counter[str]
) -> Iterator[tuple[Op, float, str]]:
    frame = pd.read_csv(io.BytesIO(archive.read(path)))
    problems: list[str] = []
    seen: dict[Op, float] = {}
    kernels: dict[Op, str] = {}
    for i, row in enumerate(frame.to_dict("records"), 2):
        found = ops_of({str(name): value for name, value in row.items()})
        if isinstance(found, str):
            left_out[found] += 1
            continue
        seconds = float(row["latency"]) / 1e3
        if not 0 < seconds < 1e3:
            problems.append(f"{path}: row {i}, latency: {row['latency']!r} ms is no positive time")
        elif found in seen and abs(seen[found] / seconds - 1) > 1e-6:
            problems.append(
                f"{path}: row {i}, latency: {seconds} s, but an earlier row of the cell has {seen[found]} s"
            )
        seen[found], kernels[found] = seconds, str(row["kernel_source"])
    if problems:
        raise HwfitError(problems)
    return ((op, seconds, kernels[op]) for op, seconds in seen.items())


def _gemm(row: dict[str, Any]) -> Op | str:
    name = str(row["gemm_dtype"])
    if name not in PRECISIONS:
        return f"gemm {name}: no precision of ours"
    return linear(int(row["m"]), int(row["n"]), int(row["k"]), PRECISIONS[name])


def _attention(row: dict[str, Any], prefill: bool) -> Op | str:
    kind = "context_attention" if prefill else "generation_attention"
    if row["attn_dtype"] != "float16" or row["kv_cache_dtype"] != "float16":
        return f"{kind}: keys and values below 16 bits"
    if row.get("window_size", 0):
        return f"{kind}: a sliding window"
    batch = int(row["batch_size"])
    context = int(row["isl"]) if prefill else int(row["step"]) + int(row["isl"])
    if not prefill and batch >= context:
        return f"{kind}: as many sequences as tokens of context"
    m = batch * context if prefill else batch
    heads, kv = int(row["num_heads"]), int(row["num_key_value_heads"]) or int(row["num_heads"])
    return Op("attention", m, heads, kv, head_size=int(row["head_dim"]), context=context)


READERS: dict[str, Reader] = {
    "gemm": _gemm,
    "context_attention": partial(_attention, prefill=True),
    "generation_attention": partial(_attention, prefill=False),
}


def _versions(archive: zipfile.ZipFile, folder: str) -> dict[str, list[str]]:
    """framework -> versions with a GEMM table."""
    found: dict[str, list[str]] = {}
    for name in archive.namelist():
        path = Path(name)
        if path.name == "gemm_perf.txt" and name.startswith(f"{folder}/"):
            found.setdefault(path.parts[-3], []).append(path.parts[-2])
    return {framework: sorted(versions) for framework, versions in found.items()}


def _facts(archive: zipfile.ZipFile, chip: str) -> Facts:
    gpu = yaml.safe_load(archive.read(f"{ROOT}/{chip}.yaml"))["gpu"]
    multiprocessors, l2 = CHIPS[chip]
    return Facts(
        float(gpu["mem_bw"]),
        float(gpu["float16_tc_flops"]),
        float(gpu.get("int8_tc_flops", 0)),
        multiprocessors,
        int(gpu["mem_capacity"]),
        l2 << 20,
    )
