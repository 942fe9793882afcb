"""Device kinds: what `--device NAME` stands for. An entry of `DEVICES` is all that a device of another kind needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from hwfit.errors import HwfitError, nearest
from hwfit.profiler.device import Fingerprint, cpu_fingerprint, cuda_fingerprint

if TYPE_CHECKING:
    from hwfit.kernels.backend import Backend
    from hwfit.profiler.deployers import Deployer
    from hwfit.profiler.doctor import Finding


@dataclass(frozen=True)
class DeviceKind:
    """`backend` runs single ops and `fingerprint` says which device this is; `deployer` times whole models, and
    `findings` is what about the device shows in figures. Functions, so that nothing is loaded before it is asked for.
    """

    backend: Callable[[], Backend]
    fingerprint: Callable[[], Fingerprint]
    deployer: Callable[[], Deployer] | None = None
    findings: Callable[[], list[Finding]] | None = None


def device_kind(device: str) -> DeviceKind:
    """Raises `HwfitError` listing the known ones."""
    if device not in DEVICES:
        raise HwfitError(f"--device '{device}' is unknown; {nearest(device, DEVICES)}")
    return DEVICES[device]


def get_backend(device: str) -> Backend:
    """The one backend of a device. Raises `HwfitError` for an unknown one, or naming what a GPU's lacks."""
    return _backend(device_kind(device))


def fingerprint(device: str = "cpu") -> Fingerprint:
    """Raises `HwfitError` for an unknown device, or a GPU that is not there."""
    return device_kind(device).fingerprint()


def get_deployer(device: str) -> Deployer:
    """Raises `HwfitError` for an unknown device, and for one that only runs single ops."""
    if not (make := device_kind(device).deployer):
        raise HwfitError(f"--device {device} runs single ops, not whole models; profile it with --whole-models 0")
    return make()


@cache
def _backend(kind: DeviceKind) -> Backend:
    return kind.backend()


def _ort_cpu() -> Backend:
    from hwfit.kernels.ort_chain import OrtCpu

    return OrtCpu()


def _cuda() -> Backend:
    from hwfit.kernels.cuda import CudaBackend

    return CudaBackend.current()


def _graphs() -> Deployer:
    from hwfit.profiler.deployers import GRAPHS

    return GRAPHS


def _packed() -> Deployer:
    from hwfit.profiler.deployers import PACKED

    return PACKED


def _cpu_findings() -> list[Finding]:
    from hwfit.profiler.doctor_cpu import findings

    return findings()


def _gpu_findings() -> list[Finding]:
    from hwfit.profiler.doctor_gpu import findings

    return findings()


DEVICES: dict[str, DeviceKind] = {
    "cpu": DeviceKind(_ort_cpu, cpu_fingerprint, _graphs, _cpu_findings),
    "cuda": DeviceKind(_cuda, cuda_fingerprint, _packed, _gpu_findings),
}
"""What `--device` may be on a machine that has it."""
