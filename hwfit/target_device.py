"""Target device: what a search is made for: this machine's own, or one that only a table knows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwfit.errors import HwfitError
from hwfit.files import write_text
from hwfit.lut_store.resolve import resolve
from hwfit.lut_store.shipped import open_table
from hwfit.profiler.device import Fingerprint, compute_capability
from hwfit.profiler.device_kinds import DEVICES, fingerprint
from hwfit.workload import Workload

GPU_SM = 90
"""Whose precisions a GPU that is not here is offered, unless they are given; what its table lacks is left out."""
CLAIM = "device.txt"


@dataclass(frozen=True)
class TargetDevice:
    """`kind` is cpu or cuda, `key` the device's in its table; `identity` is None where it is not in this machine."""

    kind: str
    key: str
    identity: Fingerprint | None = None

    @property
    def here(self) -> bool:
        """Whether models can be timed on it."""
        return self.identity is not None

    @property
    def answers(self) -> bool:
        """Whether models for it can be asked here: a processor's graph gives its answers on any processor."""
        return self.here or self.kind == "cpu"

    @property
    def sm(self) -> int | None:
        """Compute capability of a GPU, as one number."""
        return GPU_SM if self.kind == "cuda" and not self.here else compute_capability(self.kind)

    def claim(self, run: Path, workload: Workload) -> None:
        """Marks a run folder as this device's under this workload. Raises `HwfitError` if it is another's."""
        path, mine = run / "checkpoints" / CLAIM, [self.key, str(workload)]
        try:
            known = path.read_text(encoding="utf-8").splitlines() if path.exists() else mine
            known += [str(Workload())] * (len(known) == 1)  # a run begun when there was no other
        except (OSError, ValueError) as error:
            raise HwfitError(f"{path}: cannot be read ({error}); delete it, or give --out another folder") from error
        if known != mine:
            raise HwfitError(
                f"--out {run}: holds a search for device {', '.join(known)}, not {', '.join(mine)}; give another folder"
            )
        if not path.exists():
            write_text(path, "\n".join(mine) + "\n")


def kind_of(device: str) -> str:
    """cpu or cuda, from a device's name or key."""
    return "cpu" if device.startswith("cpu") else "cuda"


def target_device(device: str, tables: Path | None) -> TargetDevice:
    """`cpu` or `cuda` of this machine, or any device of the table by its key.

    Raises `HwfitError` if this machine has no such device, or the table does not know it.
    """
    if device in DEVICES:
        try:
            identity = fingerprint(device)
        except HwfitError as error:
            elsewhere = f"--device {device} is this machine's; one elsewhere has a key in its table: --device KEY"
            raise HwfitError([*error.problems, f"{elsewhere} (see `hwfit tables ls`)"]) from error
        return TargetDevice(device, identity.key, identity)
    key = resolve(open_table(tables), device)
    kind = kind_of(key)
    try:
        identity = fingerprint(kind)
    except HwfitError:  # no GPU here
        identity = None
    return TargetDevice(kind, key, identity if identity and identity.key == key else None)
