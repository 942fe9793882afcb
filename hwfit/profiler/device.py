"""Fingerprint: which device this is, as a stable key for tables and as facts for people."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from hwfit.kernels.cuda_env import current_gpu, package_version
from hwfit.profiler.nvml import Nvml

SYSFS = Path("/sys/devices/system/cpu/cpu0")
CPUINFO = Path("/proc/cpuinfo")
ISA = re.compile(r"avx\w*|sse4_[12]|fma|f16c|amx_\w+|gfni|asimd\w*|sve\w*|i8mm|bf16|rv\w+")


@dataclass(frozen=True)
class Fingerprint:
    """Facts of one device. `key` names it in tables: equal keys mean latencies may be compared.

    Sizes in bytes; 0 or None where the system does not say. The governor, the library and the memory are facts for
    people: they do not enter the key.
    """

    key: str
    name: str
    model: str
    cores: int
    l2: int
    l3: int
    memory: int
    isa: tuple[str, ...]
    governor: str | None
    virtual: bool
    system: str
    onnxruntime: str

    @property
    def cache(self) -> int:
        """Bytes of the last cache before memory: a chain must read past it."""
        return self.l3

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class CudaFingerprint(Fingerprint):
    """A GPU: `cores` are its multiprocessors, `isa` its compute capability, `l2` its last cache. Clocks in MHz.

    Driver, libraries, clocks and limits are facts for people, like those of a processor.
    """

    driver: str | None
    cuda: str | None
    torch: str
    triton: str
    max_sm_clock: int | None
    max_memory_clock: int | None
    power_limit: float | None
    ecc: bool | None

    @property
    def cache(self) -> int:
        return self.l2


def compute_capability(device: str) -> int | None:
    """A GPU's as one number (90 for 9.0), None for processors. Raises `HwfitError` if the GPU cannot be used."""
    return current_gpu().sm if device == "cuda" else None


def cpu_fingerprint() -> Fingerprint:
    """This machine's processor."""
    info = _cpuinfo()
    name = info.get("model name") or info.get("Model") or _sysctl("machdep.cpu.brand_string") or platform.machine()
    parts = [info[k] for k in ("cpu family", "model", "stepping", "CPU implementer", "CPU part") if k in info]
    flags = (info.get("flags") or info.get("Features") or info.get("isa") or "").split()
    isa = tuple(sorted(flag for flag in flags if ISA.fullmatch(flag)))
    l2, l3 = _cache(2), _cache(3)
    digest = _digest(name, parts, isa, l2, l3, platform.machine())
    return Fingerprint(
        key="-".join(["cpu", _slug(name), *parts[:2], digest]),
        name=name,
        model=".".join(parts),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        l2=l2,
        l3=l3,
        memory=psutil.virtual_memory().total,
        isa=isa,
        governor=read_system(SYSFS / "cpufreq/scaling_governor"),
        virtual="hypervisor" in flags,
        system=f"{platform.system()} {platform.release()}",
        onnxruntime=version("onnxruntime"),
    )


def cuda_fingerprint() -> CudaFingerprint:
    """The current GPU. Raises `HwfitError` if it is not there or cannot be used."""
    gpu = current_gpu()
    nvml = Nvml(gpu.index, gpu.uuid).facts()
    return CudaFingerprint(
        key="-".join(["cuda", _slug(gpu.name), _digest(gpu.name, gpu.sm, gpu.multiprocessors, gpu.l2)]),
        name=gpu.name,
        model=f"sm_{gpu.sm}",
        cores=gpu.multiprocessors,
        l2=gpu.l2,
        l3=0,
        memory=gpu.memory,
        isa=(f"sm_{gpu.sm}",),
        governor=None,
        virtual="hypervisor" in _cpuinfo().get("flags", "").split(),
        system=f"{platform.system()} {platform.release()}",
        onnxruntime=version("onnxruntime"),
        driver=nvml.driver,
        cuda=torch.version.cuda,
        torch=torch.__version__,
        triton=package_version("triton"),
        max_sm_clock=nvml.max_sm_clock,
        max_memory_clock=nvml.max_memory_clock,
        power_limit=nvml.power_limit,
        ecc=nvml.ecc,
    )


def _digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:6]


def _slug(name: str) -> str:
    """A device's name in at most 40 letters, digits and dashes."""
    plain = re.sub(r"\(\w+\)|@.*|\bcpu\b", " ", name.lower())
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-")


def read_system(path: Path) -> str | None:
    """What a file of the system says; None where there is none."""
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty where there is none."""
    first = (read_system(CPUINFO) or "").split("\n\n")[0]
    return {k.strip(): v.strip() for line in first.splitlines() for k, colon, v in [line.partition(":")] if colon}


def _cache(level: int) -> int:
    """Bytes of the unified cache of that level next to the first core."""
    for index in sorted(SYSFS.glob("cache/index*")):
        if read_system(index / "level") == str(level) and read_system(index / "type") == "Unified":
            size = re.fullmatch(r"(\d+)([KM]?)", read_system(index / "size") or "")
            return int(size[1]) * {"": 1, "K": 1024, "M": 1024**2}[size[2]] if size else 0
    return int(_sysctl(f"hw.perflevel0.l{level}cachesize") or _sysctl(f"hw.l{level}cachesize") or 0)


def _sysctl(name: str) -> str:
    """A value of macOS' sysctl; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False).stdout.strip()
