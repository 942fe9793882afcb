"""Autotune: time every candidate once per device and shape, and remember the fastest.

Candidates run from a CUDA graph over copies of the weight that exceed the L2 twice, as in a model, where each
layer streams from memory. Rows are tuned by bucket (1, 8, then powers of two). Choices are kept in
`$XDG_CACHE_HOME/hwfit/triton/<device>.json`; one file a device, thrown away when the kernels or triton change.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hwfit.errors import HwfitError
from hwfit.files import parse_json, write_text
from hwfit.kernels.cuda_graph import GraphLauncher
from hwfit.kernels.triton_configs import Config, candidates, default_config
from hwfit.kernels.triton_pack import GpuWeight
from hwfit.precision import Precision

KERNELS = 2
"""Raise when a kernel changes, so that old choices are made again."""

_REPLAYS = 5
_choices: dict[str, dict[str, Config]] = {}  # device -> key -> choice


def cache_dir() -> Path:
    """`$XDG_CACHE_HOME/hwfit/triton`, or the same under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwfit" / "triton"


def bucket(m: int) -> int:
    """The number of rows that `m` rows are tuned as."""
    return 1 if m == 1 else max(8, 1 << (m - 1).bit_length())


def chosen(p: Precision, m: int, n: int, k: int, dtype: torch.dtype = torch.bfloat16, device: str | None = None) -> str:
    """The configuration that runs `[m, k] -> [m, n]` at `p` with activations of `dtype`, in words, for the record.

    `device` is the GPU's name (default: the current one). "cublas" for 16 bits, "untuned" where no choice was made yet.
    """
    if p.weight_bits >= 16:
        return "cublas"
    if device is None:
        if not torch.cuda.is_available():
            return str(default_config(m, p))
        device = torch.cuda.get_device_name()
    found = _known(device).get(key(p, dtype, m, n, k))
    return "untuned" if found is None else str(found)


def choose(x: Tensor, w: GpuWeight) -> Config:
    """The best configuration for `x[m, k]` and `w` on their GPU: remembered, else timed now.

    Raises `HwfitError` if no candidate runs, or if timing is needed while a CUDA graph is being captured.
    """
    device = torch.cuda.get_device_name(x.device)
    name = key(w.precision, x.dtype, x.shape[0], w.n, w.k)
    known = _known(device)
    if name not in known:
        if torch.cuda.is_current_stream_capturing():
            raise HwfitError(f"{name} is not tuned yet, which a CUDA graph cannot do: call linear once before capture")
        known[name] = tune(x, w)
        _save(device, known)
    return known[name]


def key(p: Precision, dtype: torch.dtype, m: int, n: int, k: int) -> str:
    return f"{p} {str(dtype).removeprefix('torch.')} m{bucket(m)} n{n} k{k}"


def tune(x: Tensor, w: GpuWeight) -> Config:
    """The fastest candidate for `bucket(m)` rows. Candidates that do not compile or launch are passed over."""
    major, minor = torch.cuda.get_device_capability(x.device)
    rows = bucket(x.shape[0])
    trial = torch.randn(rows, w.k, dtype=x.dtype, device=x.device)
    l2 = torch.cuda.get_device_properties(x.device).L2_cache_size
    copies = [w, *(w.clone() for _ in range(min(255, 2 * l2 // w.nbytes)))]
    tried = candidates(rows, w.n, w.k, w.precision, 10 * major + minor)
    compile_all(trial, w, tried)
    times: dict[Config, float] = {}
    failures: list[str] = []
    for config in tried:
        try:
            times[config] = _seconds(trial, copies, config)
        except Exception as error:  # triton, ptxas and the driver raise many types of their own
            failures.append(f"{config}: {(str(error).splitlines() or [repr(error)])[0]}")
    if not times:
        raise HwfitError([f"no configuration runs {w.precision} {w.shape} on this GPU", *failures])
    return min(times, key=lambda c: times[c])


def compile_all(x: Tensor, w: GpuWeight, configs: Sequence[Config]) -> None:
    """Compile what the configurations run, on all processor cores at once."""
    from hwfit.kernels.triton_launch import compiling, launch

    with compiling():
        for config in configs:
            with suppress(Exception):  # told when it is timed
                launch(x, w, config)


def _seconds(x: Tensor, weights: list[GpuWeight], config: Config) -> float:
    """Least time of one call over `_REPLAYS` replays of a graph that calls every weight once."""
    from hwfit.kernels.triton_launch import launch

    def work() -> None:
        for w in weights:
            launch(x, w, config)

    with torch.cuda.device(x.device):
        graphs = GraphLauncher(x.device)
        replay = graphs.capture(work)
        times = [graphs.seconds(replay) for _ in range(_REPLAYS + 1)]  # the first one warms up
    return min(times[1:]) / len(weights)


def _known(device: str) -> dict[str, Config]:
    if device not in _choices:
        _choices[device] = _load(_path(device))
    return _choices[device]


def _path(device: str) -> Path:
    return cache_dir() / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


@cache
def _versions() -> dict[str, str]:
    try:
        return {"kernels": str(KERNELS), "triton": version("triton")}
    except PackageNotFoundError:
        return {"kernels": str(KERNELS), "triton": "none"}


def _load(path: Path) -> dict[str, Config]:
    """Remembered choices; none if the file is missing, damaged or of other versions (it is only a cache)."""
    try:
        stored: Any = parse_json(path.read_text(encoding="utf-8"))
        if stored["versions"] != _versions():
            return {}
        return {name: _config(entry) for name, entry in stored["choices"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _config(entry: dict[str, Any]) -> Config:
    if set(entry) != {f.name for f in fields(Config)} or not isinstance(entry["variant"], str):
        raise ValueError(f"not a configuration: {entry}")
    if not all(isinstance(v, int) and v >= 0 for name, v in entry.items() if name != "variant"):
        raise ValueError(f"not a configuration: {entry}")
    return Config(**entry)


def _save(device: str, choices: dict[str, Config]) -> None:
    path = _path(device)
    merged = {**_load(path), **choices}  # another process may have added some
    content = {"versions": _versions(), "choices": {name: asdict(c) for name, c in sorted(merged.items())}}
    with suppress(OSError):  # a cache that cannot be written costs the next process a minute, nothing else
        write_text(path, json.dumps(content, indent=1))
