"""Whole models ready to be timed on a device: from subnets with random weights, or from deployed folders."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwfit.deploy.bundle import WEIGHTS
from hwfit.profiler.device_kinds import get_deployer
from hwfit.profiler.whole import TimedModel
from hwfit.progress import track
from hwfit.subnet import Subnet
from hwfit.workload import Workload


def max_tokens(workload: Workload) -> int:
    """KV cache length that the workload needs, rounded up to a multiple of 128."""
    return -(-max(workload.prompt + workload.generate, workload.context + 1) // 128) * 128


def groups(device: str, subnets: Mapping[str, Subnet], workload: Workload) -> Sequence[Mapping[str, Subnet]]:
    """Subnets in the order given, split into groups that the device can hold at once."""
    return get_deployer(device).groups(subnets, workload)


@contextmanager
def random_models(
    device: str, subnets: Mapping[str, Subnet], config: Mapping[str, Any], workload: Workload, progress: bool = True
) -> Iterator[dict[str, TimedModel]]:
    """Each subnet with random weights, ready to be timed on `device`; `config` is the original's.

    Raises `HwfitError` for what the device cannot run.
    """
    models: dict[str, TimedModel] = {}
    with tempfile.TemporaryDirectory(prefix="hwfit-") as folder:
        with track(len(subnets), "Deploying", progress) as advance:
            for seed, (name, subnet) in enumerate(subnets.items()):
                models[name] = get_deployer(device).random(subnet, config, seed, max_tokens(workload), Path(folder))
                advance(note=name)
        try:
            yield models
        finally:
            models.clear()  # the next group needs their memory


def open_model(device: str, path: Path, workload: Workload) -> TimedModel:
    """A deployed folder as the device runs it: its ONNX graph on a processor, its packed weights on a GPU.

    Raises `HwfitError` for a path that holds no such thing.
    """
    return get_deployer(device).folder(path, max_tokens(workload))


def finish(device: str, folder: Path, model: Path, workload: Workload) -> None:
    """Make a bundle's folder ready for `open_model`, with the tokenizer of `model`: a processor also needs its graph.

    Raises `HwfitError` for what the device cannot run.
    """
    get_deployer(device).finish(folder, model, max(512, max_tokens(workload)))


def finished(device: str, folder: Path) -> bool:
    """Whether `finish` was done since the bundle in `folder` was written."""
    weights = folder / WEIGHTS
    return weights.is_file() and (folder / "subnet.json").is_file() and get_deployer(device).finished(folder)


def stored_bytes(device: str, path: Path) -> int:
    """Bytes on disk of what `open_model` reads."""
    return get_deployer(device).size(path)
