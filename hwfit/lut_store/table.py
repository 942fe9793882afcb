"""Table: a folder of immutable parquet parts, written whole or not at all, read as one data frame."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hwfit.errors import HwfitError, nearest, raise_all
from hwfit.kernels.op import Op
from hwfit.lut_store.schema import OP_COLUMNS, PROTOCOL, SCHEMA, Measurement, RunInfo, Status, op_of, to_arrow
from hwfit.lut_store.verify import problems_of

RUN_KEY = b"hwfit.run"
PROFILE = "hwfit profile MODEL --device cpu"
STALE_SECONDS = 3600.0
RANK = {"OK": 2, "UNSTABLE": 1}


def default_tables_dir() -> Path:
    """`$XDG_CACHE_HOME/hwfit/tables`, or the same under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwfit" / "tables"


class Table:
    """All measurements under `path`, of any device, run and protocol version.

    Parts are never rewritten, so several processes may append at once and a kill leaves only whole parts.
    """

    def __init__(self, path: Path | str | None = None, writable: bool = True):
        self.path = Path(path) if path is not None else default_tables_dir()
        self.writable = writable
        self._seen: dict[tuple[Path, int, int], pa.Table] = {}  # rows by part, its size and its time

    @property
    def _profile(self) -> str:
        return f"`{PROFILE} --tables {self.path}`"

    # --- writing -----------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Make the folder and prove that it can be written to. Raises `HwfitError` otherwise."""
        self._write(f".{uuid.uuid4().hex}.probe", b"", keep=False)

    def append(self, measurements: Sequence[Measurement], run: RunInfo) -> Path:
        """Write one new part. Raises `HwfitError` (disk full, read-only); then no partial file is left."""
        arrow = to_arrow(measurements)
        arrow = arrow.replace_schema_metadata({RUN_KEY: run.to_json().encode()})
        sink = pa.BufferOutputStream()
        pq.write_table(arrow, sink, compression="zstd", write_page_checksum=True)
        return self._write(f"{run.device}-{run.run_id}-{uuid.uuid4().hex[:8]}.parquet", sink.getvalue())

    def _write(self, name: str, data: bytes | pa.Buffer, keep: bool = True) -> Path:
        if not self.writable:
            raise HwfitError(f"--tables {self.path} is read-only; name a folder of your own, or leave --tables out")
        target, temporary = self.path / name, self.path / f".{name}.tmp"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._sweep()
            try:
                with open(temporary, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if keep:
                    os.replace(temporary, target)
                    _fsync_folder(self.path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise HwfitError(self._reason(error, len(data))) from error
        return target

    def _sweep(self) -> None:
        """Remove temporary files that a killed run left behind long ago."""
        for file in self.path.glob(".*.tmp"):
            with suppress(FileNotFoundError):  # another process has just finished or swept it
                if time.time() - file.stat().st_mtime > STALE_SECONDS:
                    file.unlink()

    def _reason(self, error: OSError, size: int) -> str:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(self.path).free
            return (
                f"--tables {self.path}: no space left for a part of {size:,} bytes ({free:,} bytes free); free some "
                f"space or name another folder. Nothing measured before is lost: the same command resumes"
            )
        return (
            f"--tables {self.path}: cannot be written ({error.strerror or error}); "
            f"name a folder you may write to, such as --tables {default_tables_dir()}"
        )

    # --- reading -----------------------------------------------------------------------------------------------

    def read(self, device: str | None = None, protocol: int = PROTOCOL) -> pd.DataFrame:
        """One row an op and device: the latest `OK` one, else the latest `UNSTABLE`, else the latest.

        Columns are those of `SCHEMA`, times in seconds. Raises `HwfitError` for a table that is empty or holds no
        row of `device` or `protocol` (naming what it does hold), and for any part that is truncated or foreign.
        """
        rows = self._rows()
        devices = _distinct(rows, "device")
        if not devices:
            raise HwfitError(f"table {self.path} holds no measurements; make some with {self._profile}")
        if device is not None and device not in devices:
            raise HwfitError(
                f"table {self.path} holds nothing of device '{device}'; {nearest(device, devices)}. "
                f"Latencies are never borrowed from another device: measure this one with {self._profile}"
            )
        chosen = rows if device is None else rows.filter(pc.field("device") == device)
        found = _distinct(chosen, "protocol")
        if protocol not in found:
            raise HwfitError(
                f"table {self.path} was measured by protocol version {', '.join(map(str, found))}, this hwfit reads "
                f"version {protocol}; {'update hwfit, or ' if min(found) > protocol else ''}measure again with "
                f"{self._profile} (other rows may stay in the folder)"
            )
        return _latest(chosen.filter(pc.field("protocol") == protocol))

    def known(self, device: str, protocol: int = PROTOCOL) -> dict[Op, Status]:
        """What is there already for `device`; empty for an empty table. Raises `HwfitError` for a bad part."""
        frame = _latest(self._of(device, protocol))
        return {op_of(row): row["status"] for row in frame.to_dict("records")}

    def references(self, device: str, protocol: int = PROTOCOL) -> list[tuple[int, float]]:
        """`(m, pace_reference)`: the paces that the rows of `device` were corrected to, oldest row first."""
        rows = self._of(device, protocol).filter(pc.field("pace_reference") > 0).sort_by("measured_at")
        return [(row["m"], row["pace_reference"]) for row in rows.to_pylist()]

    def devices(self) -> list[str]:
        """Keys of the devices that have rows here."""
        return _distinct(self._rows(), "device")

    def runs(self) -> list[RunInfo]:
        """Provenance of every run with a part here, oldest first. Raises `HwfitError` naming all damaged parts."""
        found, problems = {}, []
        for part in self.parts():
            try:
                metadata = pq.read_schema(part).metadata or {}
                run = RunInfo.from_json(metadata[RUN_KEY]) if RUN_KEY in metadata else None
            except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"{part}: says nothing readable of its run ({_reason(error)}); {self._mend(part)}")
                continue
            if run:
                found[run.run_id] = run
        raise_all(problems)
        return sorted(found.values(), key=lambda run: run.started)

    def parts(self) -> list[Path]:
        return sorted(self.path.glob("*.parquet"))

    def _of(self, device: str, protocol: int) -> pa.Table:
        return self._rows().filter((pc.field("device") == device) & (pc.field("protocol") == protocol))

    def _rows(self) -> pa.Table:
        """Every row of every part. Raises `HwfitError` naming all the parts that cannot be read."""
        problems: list[str] = []
        tables = [SCHEMA.empty_table()]
        for part in self.parts():
            try:
                tables.append(self._part(part))
            except HwfitError as error:
                problems += error.problems
        raise_all(problems)
        return pa.concat_tables(tables)

    def _part(self, part: Path) -> pa.Table:
        """The rows of one part, remembered: a part never changes. Raises `HwfitError` for what is none."""
        try:
            about = part.stat()
            key = part, about.st_size, about.st_mtime_ns
            if key not in self._seen:
                table = pq.ParquetFile(part, page_checksum_verification=True).read()
                if missing := [name for name in SCHEMA.names if name not in table.schema.names]:
                    lacks = f"it lacks {', '.join(missing)}"
                    raise HwfitError(f"{part}: no part of a hwfit table ({lacks}); {self._mend(part)}")
                rows = table.select(SCHEMA.names).cast(SCHEMA)
                raise_all(problems_of(rows, str(part)))
                self._seen[key] = rows
            return self._seen[key]
        except (pa.ArrowException, OSError, ValueError, TypeError) as error:  # decoders of pages and of columns
            raise HwfitError(f"{part}: truncated, damaged or foreign ({_reason(error)}); {self._mend(part)}") from error

    def _mend(self, part: Path) -> str:
        return f"move it out of the folder (`mv {part} /tmp`) and run {self._profile}: only what is missing is measured"


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _distinct(rows: pa.Table, column: str) -> list:
    return sorted(rows[column].unique().to_pylist())


def _latest(rows: pa.Table) -> pd.DataFrame:
    """One row an op and device: by status, then by time."""
    frame: pd.DataFrame = rows.to_pandas()
    frame["_rank"] = [RANK.get(status, 0) for status in frame["status"]]
    frame = frame.sort_values(by=["_rank", "measured_at"], kind="stable")
    frame = frame.drop_duplicates([*OP_COLUMNS, "device"], keep="last").drop(columns="_rank")
    return frame.sort_values(by=[*OP_COLUMNS, "device"]).reset_index(drop=True)


def _fsync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
