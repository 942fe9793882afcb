"""aiconfigurator's own interpolation, run from its pinned wheel: one more contender of `benchmarks.latency_models`.

Its database fills a grid of widths and rows linearly when it is loaded, and answers a query with cubic `griddata` over
the four neighbours in (n, k), then linearly in m (`sdk/perf_database.py`: `_extrapolate_data_grid`, `_interp_3d`). The
methods run unchanged on the cells of the training folds. The grid is the one in `PerfDatabase.__init__`, version 0.7.0.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import sys
import tempfile
import zipfile
from collections import defaultdict
from functools import cache
from typing import Any

import numpy as np

from hwfit.latency_models.cells import Cells
from hwfit.latency_models.contenders import Predictor
from hwfit.packs import AICONFIGURATOR, wheel

ROWS = (
    *(1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024),
    *(2048, 4096, 8192, 16384, 32768, 131072, 524288, 1048576, 16777216),
)
WIDTHS = (
    *(32, 64, 128, 256, 512, 768, 1024, 1536, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288),
    *(14336, 16384, 20480, 24576, 28672, 32768, 40960, 49152, 57344, 65536, 131072, 262144),
)


def aiconfigurator(cells: Cells, seed: int) -> Predictor:
    """NaN where its database has no neighbours to interpolate between."""
    database = _database()
    grid: dict[int, dict[int, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for (m, n, k), seconds in zip(cells.sizes.astype(int).tolist(), cells.seconds.tolist(), strict=True):
        grid[m][n][k] = 1e3 * seconds  # milliseconds, as its files have
    database._extrapolate_data_grid(grid, list(ROWS), list(WIDTHS), list(WIDTHS))
    return lambda sizes: np.array(
        [_query(database, grid, *row) for row in sizes.astype(int).tolist()], dtype=np.float64
    )


def _query(database: Any, grid: dict[int, dict[int, dict[int, float]]], m: int, n: int, k: int) -> float:
    try:
        return float(database._interp_3d(m, n, k, grid, "cubic")["latency"]) / 1e3
    except (ValueError, KeyError, AssertionError):
        return float("nan")


@cache
def _database() -> Any:
    """Its database class, empty: the interpolation needs no table of its own. The code is imported from a copy."""
    folder = tempfile.mkdtemp(prefix="aiconfigurator-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(wheel(AICONFIGURATOR)) as archive:
        archive.extractall(folder, [name for name in archive.namelist() if name.endswith((".py", "METADATA"))])
    sys.path.append(folder)
    from aiconfigurator.sdk.perf_database import PerfDatabase  # pyright: ignore[reportMissingImports]

    logging.getLogger("aiconfigurator").setLevel(logging.ERROR)
    return PerfDatabase.__new__(PerfDatabase)
