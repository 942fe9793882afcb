"""Fingerprint: which device this is, as a stable key for tables and as facts for people."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from hwfit.errors import HwfitError, nearest

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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def fingerprint(device: str = "cpu") -> Fingerprint:
    """Raises `HwfitError` for a device this hwfit cannot look at."""
    if device not in DEVICES:
        raise HwfitError(f"--device {device} is unknown; {nearest(device, DEVICES)}")
    return DEVICES[device]()


def _cpu() -> Fingerprint:
    info = _cpuinfo()
    name = info.get("model name") or info.get("Model") or _sysctl("machdep.cpu.brand_string") or platform.machine()
    parts = [info[k] for k in ("cpu family", "model", "stepping", "CPU implementer", "CPU part") if k in info]
    flags = (info.get("flags") or info.get("Features") or info.get("isa") or "").split()
    isa = tuple(sorted(flag for flag in flags if ISA.fullmatch(flag)))
    l2, l3 = _cache(2), _cache(3)
    digest = hashlib.sha256(repr((name, parts, isa, l2, l3, platform.machine())).encode()).hexdigest()[:6]
    slug = re.sub(r"[^a-z0-9]+", "-", re.sub(r"\(\w+\)|@.*|\bcpu\b", " ", name.lower())).strip("-")[:40].strip("-")
    return Fingerprint(
        key="-".join(["cpu", slug, *parts[:2], digest]),
        name=name,
        model=".".join(parts),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        l2=l2,
        l3=l3,
        memory=psutil.virtual_memory().total,
        isa=isa,
        governor=_read(SYSFS / "cpufreq/scaling_governor"),
        virtual="hypervisor" in flags,
        system=f"{platform.system()} {platform.release()}",
        onnxruntime=version("onnxruntime"),
    )


DEVICES: dict[str, Callable[[], Fingerprint]] = {"cpu": _cpu}


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; empty where there is none."""
    first = (_read(CPUINFO) or "").split("\n\n")[0]
    return {k.strip(): v.strip() for line in first.splitlines() for k, colon, v in [line.partition(":")] if colon}


def _cache(level: int) -> int:
    """Bytes of the unified cache of that level next to the first core."""
    for index in sorted(SYSFS.glob("cache/index*")):
        if _read(index / "level") == str(level) and _read(index / "type") == "Unified":
            size = re.fullmatch(r"(\d+)([KM]?)", _read(index / "size") or "")
            return int(size[1]) * {"": 1, "K": 1024, "M": 1024**2}[size[2]] if size else 0
    return int(_sysctl(f"hw.perflevel0.l{level}cachesize") or _sysctl(f"hw.l{level}cachesize") or 0)


def _sysctl(name: str) -> str:
    """A value of macOS' sysctl; empty elsewhere."""
    if platform.system() != "Darwin":
        return ""
    return subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False).stdout.strip()
