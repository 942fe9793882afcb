"""Deployers: how a kind of device gets whole models, from subnets with random weights or from deployed folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hwfit.deploy.bundle import WEIGHTS, load_bundle, random_bundle
from hwfit.deploy.folder import ONNX, copy_tokenizer, deploy, onnx_path, size_on_disk
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.origin import ORIGIN
from hwfit.deploy.runtime import OnnxModel
from hwfit.errors import HwfitError
from hwfit.profiler.device_kinds import get_backend
from hwfit.profiler.preflight import whole_bytes
from hwfit.profiler.whole import TimedModel
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


GRAPHS = Deployer(
    groups=_all_at_once,
    random=_onnx,
    folder=lambda path, length: OnnxModel(onnx_path(path)),
    size=size_on_disk,
    finish=lambda folder, model, length: deploy(folder, model, folder, length),
    finished=_graph_is_newer,
)
"""ONNX graphs, as a processor runs them."""
PACKED = Deployer(
    groups=_by_memory,
    random=_cuda,
    folder=_cuda_folder,
    size=lambda path: (path / WEIGHTS).stat().st_size,
    finish=lambda folder, model, length: copy_tokenizer(model, folder),
    finished=lambda folder: (folder / ORIGIN).is_file(),
)
"""Packed weights, as a GPU runs them."""
