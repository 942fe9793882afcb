"""What would models of the paper's sizes (arXiv 2606.04063, cut from Llama-3.1-8B) take on an A100, by NVIDIA's table?

The paper's text gives one latency for its quantised models, 30 ms, and leaves batch and prompt unsaid. Printed are the
deepest and the shallowest architecture of its Llama3Space at each size under several workloads, and the workload whose
quantised models come nearest to 30 ms. With `--paper FILE` (CSV: hidden, heads, mlp, blocks, head_size, precision, ms)
each architecture of the file stands beside its own milliseconds instead, and the best workload is the one with the
least median error.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from benchmarks.common import parser, publish
from benchmarks.latency_models import DEVICES
from hwfit.errors import HwfitError, raise_all
from hwfit.files import is_number
from hwfit.latency_models.load import load_latency
from hwfit.latency_models.transfer_subnets import LLAMA_8B
from hwfit.latency_models.whole import WholeModel
from hwfit.lut_store.aiconfigurator import import_aiconfigurator
from hwfit.lut_store.table import Table
from hwfit.precision import Precision
from hwfit.progress import track
from hwfit.space_files import open_space
from hwfit.subnet import LINEARS, Subnet
from hwfit.workload import Workload

SPACE = open_space("llama3", LLAMA_8B, "cuda").space
SIZES = (2e9, 3e9, 4e9, 5e9, 6e9)
PRECISIONS = ("w16a16", "w8a8", "w4a16")
PAPER_MS = 30.0
WORKLOADS = {
    **{f"decode, batch {b}, context {c}": Workload(b, c, context=c) for b, c in product((1, 8, 32), (128, 1024))},
    **{f"prefill, {p} tokens": Workload(1, p, context=p) for p in (128, 256, 512, 1024, 2048)},
}
COLUMNS = ("hidden", "heads", "mlp", "blocks", "head_size", "precision", "ms")


@dataclass(frozen=True)
class Model:
    """One architecture at one precision everywhere; `told` is the paper's latency in milliseconds."""

    name: str
    quantised: bool
    subnet: Subnet
    told: float


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--paper", type=Path, help="CSV of the paper's architectures and milliseconds")
    options = arguments.parse_args()
    models = list(_of_file(options.paper) if options.paper else _of_sizes())
    with tempfile.TemporaryDirectory() as folder:
        table = Table(Path(folder))
        key = import_aiconfigurator(DEVICES["a100"], table)[-1].device
        latency = load_latency(key, Path(folder))
        times: dict[str, list[float]] = {}
        with track(len(WORKLOADS), "predict") as advance:
            for name in WORKLOADS:
                times[name] = [_ms(latency, one.subnet, name) for one in models]
                advance()
    quantised = [i for i, one in enumerate(models) if options.paper or one.quantised]
    off = {name: _off([(ms[i], models[i].told) for i in quantised]) for name, ms in times.items()}
    order = sorted(off, key=lambda name: off[name])
    out = RichTable("model", "paper ms", *order[:4], title=f"predicted ms on {key}, nearest workloads first")
    for i, one in enumerate(models):
        out.add_row(one.name, f"{one.told:g}", *(f"{times[name][i]:.1f}" for name in order[:4]))
    out.add_row("quantised, median factor off", "", *(f"{np.exp(off[name]):.2f}" for name in order[:4]))
    Console(width=150).print(out)
    figures = {f"{name}.factor_off": float(np.exp(off[name])) for name in order}
    publish("paper_models", figures, options.json)


def _off(pairs: list[tuple[float, float]]) -> float:
    """Median of the absolute log ratio of predicted and told; infinite where nothing could be priced."""
    known = [abs(np.log(ms / told)) for ms, told in pairs if not np.isnan(ms)]
    return float(np.median(known)) if known else float("inf")


def _ms(latency: WholeModel, subnet: Subnet, workload: str) -> float:
    phase = WORKLOADS[workload].phase("decode" if workload.startswith("decode") else "prefill")
    try:
        return latency.predict(subnet, phase).value * 1e3
    except HwfitError:
        return float("nan")


def _of_sizes() -> Iterator[Model]:
    """At each size the deepest and the shallowest architecture of Llama3Space within 3 % that keeps whole heads."""
    axes = (SPACE.hidden, SPACE.heads, SPACE.mlp, SPACE.depth)
    for size in SIZES:
        near = [a for a in product(*axes) if abs(_cut(*a, PRECISIONS[0]).params / size - 1) < 0.03]
        near.sort(key=lambda a: (a[3], a[0]))
        for architecture, precision in product((near[-1], near[0]), PRECISIONS):
            yield _model(_cut(*architecture, precision), PAPER_MS)
    for precision in PRECISIONS:
        yield _model(_cut(4096, 32, 14336, 32, precision), PAPER_MS)


def _of_file(path: Path) -> Iterator[Model]:
    """Raises `HwfitError` listing missing columns, and rows whose milliseconds are no positive number."""
    frame = pd.read_csv(path)
    raise_all([f"{path}: no column '{c}'; needed: {', '.join(COLUMNS)}" for c in COLUMNS if c not in frame.columns])
    rows = frame.to_dict("records")
    told = [is_number(row["ms"]) and float(row["ms"]) > 0 for row in rows]
    raise_all([f"{path}: row {i + 2}: ms must be a positive number" for i, good in enumerate(told) if not good])
    for row in rows:
        hidden, heads, mlp, blocks, head_size = (int(row[c]) for c in COLUMNS[:5])
        yield _model(_cut(hidden, heads, mlp, blocks, str(row["precision"]), head_size), float(row["ms"]))


def _cut(hidden: int, heads: int, mlp: int, blocks: int, precision: str, head_size: int = LLAMA_8B.head_size) -> Subnet:
    """The last linear stays at 16 bits, as the paper leaves it."""
    rows = ((Precision.parse(precision),) * len(LINEARS),) * blocks
    return SPACE.subnet(hidden, heads, head_size, mlp, tuple(range(blocks)), rows, lm_head=SPACE.embed)


def _model(subnet: Subnet, told: float) -> Model:
    precision = subnet.precision[0][0]
    name = (
        f"{subnet.params / 1e9:.1f}B {precision}: {len(subnet.blocks)} blocks, {subnet.hidden} wide, "
        f"{subnet.heads} heads, MLP {subnet.mlp[0]}"
    )
    return Model(name, precision.weight_bits < 16, subnet, told)


if __name__ == "__main__":
    main()
