"""Registry: the devices hwfit can measure. A backend says what runs on its device, why the rest does not, and builds
chains of distinct copies of an op to be timed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Protocol

from hwfit.errors import HwfitError, nearest
from hwfit.kernels.op import Op, linear
from hwfit.precision import KNOWN, Precision


class Chain(Protocol):
    """Distinct copies of one op in one graph, so that each pass reads all their weights from memory."""

    copies: int
    weight_bytes: int  # of all copies together: weights, or key/value cache of attention

    def run(self) -> None:
        """One pass over all copies. Divide its time by `copies`."""
        ...


class Backend(Protocol):
    """One way of running ops on one device."""

    name: str
    device: str  # the name it is registered under

    def why_not(self, op: Op) -> str | None:
        """None if `op` runs here; else the reason in words, with what to use instead."""
        ...

    def kernel(self, op: Op) -> str:
        """The library op that runs it."""
        ...

    def copy_bytes(self, op: Op) -> int:
        """Bytes of weights (key/value cache of attention) that one copy in a chain reads."""
        ...

    def build(self, op: Op, copies: int, seed: int) -> Chain:
        """A chain ready to run. Raises `HwfitError` with `why_not` if the op does not run here."""
        ...

    def fingerprint(self) -> dict[str, str]:
        """Names and versions of the libraries that decide the timing."""
        ...


def _ort_cpu() -> Backend:
    from hwfit.kernels.ort_chain import OrtCpu

    return OrtCpu()


def _cuda() -> Backend:
    from hwfit.kernels.cuda import CudaBackend

    return CudaBackend.current()


_BACKENDS: dict[str, Callable[[], Backend]] = {"cpu": _ort_cpu, "cuda": _cuda}


@cache
def get_backend(device: str) -> Backend:
    """The backend of a device name. Raises `HwfitError` listing the known ones, or what a GPU's lacks."""
    if device not in _BACKENDS:
        raise HwfitError(f"--device '{device}' is unknown; {nearest(device, _BACKENDS)}")
    return _BACKENDS[device]()


def device_names() -> list[str]:
    """What `--device` may be on a machine that has it."""
    return list(_BACKENDS)


def catalogue(device: str) -> dict[str, str | None]:
    """Every known precision and why a linear cannot run at it on `device` (None: it runs)."""
    backend = get_backend(device)
    return {name: backend.why_not(linear(1, 128, Precision.parse(name).group or 128, name)) for name in KNOWN}
