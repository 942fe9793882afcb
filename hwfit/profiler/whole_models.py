"""Whole models ready to be timed on a device: from subnets with random weights, or from deployed folders."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hwfit.deploy.bundle import WEIGHTS, load_bundle, random_bundle
from hwfit.deploy.folder import ONNX, copy_tokenizer, deploy, onnx_path, size_on_disk
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.origin import ORIGIN
from hwfit.deploy.runtime import OnnxModel
from hwfit.errors import HwfitError
from hwfit.kernels.registry import get_backend
from hwfit.profiler.preflight import whole_bytes
from hwfit.profiler.whole import TimedModel
from hwfit.progress import track
from hwfit.subnet import Subnet
from hwfit.workload import Workload

if TYPE_CHECKING:
    from hwfit.kernels.cuda import CudaBackend

MEMORY_SHARE = 0.8
"""Part of a GPU's free memory that models timed in turns may fill."""


@dataclass(frozen=True)
class Deployer:
    """How a device gets its models. `groups` splits subnets into those that may be alive together."""

    groups: Callable[[Mapping[str, Subnet], Workload], Sequence[Mapping[str, Subnet]]]
    random: Callable[..., Any]
    folder: Callable[[Path, int], TimedModel]
    size: Callable[[Path], int]
    finish: Callable[[Path, Path, int], object]
    finished: Callable[[Path], bool]


def max_tokens(workload: Workload) -> int:
    """KV cache length that the workload needs, rounded up to a multiple of 128."""
    return -(-max(workload.prompt + workload.generate, workload.context + 1) // 128) * 128


def groups(device: str, subnets: Mapping[str, Subnet], workload: Workload) -> Sequence[Mapping[str, Subnet]]:
    """Subnets in the order given, split into groups that the device can hold at once."""
    return _DEPLOYERS[device].groups(subnets, workload)


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
                models[name] = _DEPLOYERS[device].random(subnet, config, seed, max_tokens(workload), Path(folder))
                advance(note=name)
        try:
            yield models
        finally:
            models.clear()  # the next group needs their memory


def open_model(device: str, path: Path, workload: Workload) -> TimedModel:
    """A deployed folder as the device runs it: its ONNX graph on a processor, its packed weights on a GPU.

    Raises `HwfitError` for a path that holds no such thing.
    """
    return _DEPLOYERS[device].folder(path, max_tokens(workload))


def finish(device: str, folder: Path, model: Path, workload: Workload) -> None:
    """Make a bundle's folder ready for `open_model`, with the tokenizer of `model`: a processor also needs its graph.

    Raises `HwfitError` for what the device cannot run.
    """
    _DEPLOYERS[device].finish(folder, model, max(512, max_tokens(workload)))


def finished(device: str, folder: Path) -> bool:
    """Whether `finish` was done since the bundle in `folder` was written."""
    weights = folder / WEIGHTS
    return weights.is_file() and (folder / "subnet.json").is_file() and _DEPLOYERS[device].finished(folder)


def stored_bytes(device: str, path: Path) -> int:
    """Bytes on disk of what `open_model` reads."""
    return _DEPLOYERS[device].size(path)


def _onnx(subnet: Subnet, config: Mapping[str, Any], seed: int, length: int, folder: Path) -> OnnxModel:
    path = write_onnx(random_bundle(subnet, config, seed), folder / f"{seed}.onnx", length)
    model = OnnxModel(path)
    path.unlink()
    return model


def _graph_is_newer(folder: Path) -> bool:
    graph = folder / ONNX
    return graph.is_file() and graph.stat().st_mtime >= (folder / WEIGHTS).stat().st_mtime


def _cuda(subnet: Subnet, config: Mapping[str, Any], seed: int, length: int, folder: Path) -> TimedModel:
    from hwfit.deploy.cuda_model import CudaModel

    backend = _gpu()
    return CudaModel.random(subnet, config, backend.kit, backend.launcher, length, seed)


def _cuda_folder(path: Path, length: int) -> TimedModel:
    from hwfit.deploy.cuda_model import CudaModel

    if not path.is_dir():
        raise HwfitError(f"{path}: a GPU runs a folder with subnet.json and model.safetensors, not an ONNX file")
    backend = _gpu()
    return CudaModel.of(load_bundle(path), backend.kit, backend.launcher, length)


def _gpu() -> CudaBackend:
    return cast("CudaBackend", get_backend("cuda"))


def _all_at_once(subnets: Mapping[str, Subnet], workload: Workload) -> list[Mapping[str, Subnet]]:
    return [subnets]


def _by_memory(subnets: Mapping[str, Subnet], workload: Workload) -> list[Mapping[str, Subnet]]:
    from hwfit.kernels.cuda_env import free_memory

    return split_by_bytes(subnets, workload, int(MEMORY_SHARE * free_memory()))


def split_by_bytes(subnets: Mapping[str, Subnet], workload: Workload, room: int) -> list[Mapping[str, Subnet]]:
    """Consecutive groups of at most `room` bytes; a subnet that alone needs more is a group of its own."""
    found: list[dict[str, Subnet]] = []
    left = 0
    for name, subnet in subnets.items():
        need = whole_bytes(subnet, workload)
        if not found or need > left:
            found.append({})
            left = room
        found[-1][name] = subnet
        left -= need
    return list(found)


_DEPLOYERS = {
    "cpu": Deployer(
        _all_at_once,
        _onnx,
        lambda path, length: OnnxModel(onnx_path(path)),
        size_on_disk,
        lambda folder, model, length: deploy(folder, model, folder, length),
        _graph_is_newer,
    ),
    "cuda": Deployer(
        _by_memory,
        _cuda,
        _cuda_folder,
        lambda path: (path / WEIGHTS).stat().st_size,
        lambda folder, model, length: copy_tokenizer(model, folder),
        lambda folder: (folder / ORIGIN).is_file(),
    ),
}
