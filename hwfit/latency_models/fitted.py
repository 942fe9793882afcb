"""Fitted: prices on a device whose table is a dense grid, as published ones are: read, predicted, or refused.

    linear       as measured, else the contender that won the contest on this device and precision, with its
                 conformal interval for the regime of rows; beyond the measured sizes twice as wide for each doubling
    attention    as measured, else interpolated over batch and context between cells of the same heads
    others       published tables have none: bytes over the data sheet's bandwidth, named as such, with a wide interval

Contest results are kept (`verdict`); models are fitted again when they are needed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import LinearNDInterpolator

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op, sequences
from hwfit.latency_models.cells import REGIMES, Cells, regime
from hwfit.latency_models.contenders import CONTENDERS, Predictor
from hwfit.latency_models.contest import FOLDS, hold_out, winner
from hwfit.latency_models.estimate import DataMiss, Estimate
from hwfit.latency_models.features import LAUNCH, REACHED
from hwfit.latency_models.verdict import FOLDER, Verdict, find_verdict, write_verdict
from hwfit.lut_store.facts import Facts
from hwfit.lut_store.schema import OP_COLUMNS
from hwfit.progress import track

ENTERED = ("boosting", "boosting and extra trees", "nearest", "roofline")
"""Contenders for dense and for sparse grids; `benchmarks.latency_models` has them all."""
UNKNOWN_SHAPE = 2.0
"""Factor between the bounds of an op that is priced from the data sheet alone."""


@dataclass
class Fitted:
    """One device's dense table as a function of op; nothing is fitted before it is asked for."""

    device: str
    frame: pd.DataFrame
    facts: Facts
    folder: Path
    _models: dict[str, tuple[Predictor, Verdict, Cells]] = field(default_factory=dict, repr=False)
    _memo: dict[Op, Estimate] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        timed = self.frame[self.frame["p10"] > 0]
        columns = [timed[c].tolist() for c in (*OP_COLUMNS, "p10")]
        self._measured = {Op(*row[:-1]): float(row[-1]) for row in zip(*columns, strict=True)}

    @property
    def precisions(self) -> set[str]:
        """Those of the linears that were measured or refused."""
        return set(self.frame[self.frame["kind"] == "linear"]["precision"])

    def predict(self, op: Op) -> Estimate:
        """Raises `DataMiss` for a precision or an attention that nothing here tells about."""
        if op not in self._memo:
            value = self._measured.get(op)
            by_kind = {"linear": self._linear, "attention": self._attention}
            self._memo[op] = (
                Estimate(value, value, value, "measured") if value else by_kind.get(op.kind, self._sheet)(op)
            )
        return self._memo[op]

    def price(self, op: Op) -> float:
        """`predict(op).value`, in seconds: what `ExpectedCost` takes."""
        return self.predict(op).value

    def verdict(self, precision: str) -> Verdict:
        """Raises `HwfitError` if no linear was measured at `precision`."""
        return self._model(precision)[1]

    def _linear(self, op: Op) -> Estimate:
        try:
            predictor, verdict, cells = self._model(op.precision)
        except HwfitError as error:
            raise DataMiss({op: error.problems[0]}, self.device) from error
        size = np.array([[op.m, op.n, op.k]], dtype=np.float64)
        value = float(predictor(size)[0])
        half = verdict.half_widths.get(REGIMES[int(regime(size[:, 0])[0])], max(verdict.half_widths.values()))
        outside = _doublings_outside(size[0], cells)
        half *= 1 + outside
        return Estimate(value, value * np.exp(-half), value * np.exp(half), "extrapolated" if outside else "predicted")

    def _attention(self, op: Op) -> Estimate:
        def at(known: Op) -> tuple[float, float]:
            return float(sequences(known)[0]), float(known.context)

        prefill = op.m >= op.context
        alike = {
            at(known): seconds
            for known, seconds in self._measured.items()
            if (known.kind, known.n, known.k, known.head_size) == ("attention", op.n, op.k, op.head_size)
            and (known.m >= known.context) == prefill
        }
        value = float("nan")
        if len(alike) > 3:
            inside = LinearNDInterpolator(np.log(list(alike)), np.log(list(alike.values())))
            value = float(np.exp(inside(np.log([at(op)]))[0]))
        if not np.isfinite(value):
            heads = sorted({(o.n, o.k, o.head_size) for o in self._measured if o.kind == "attention"})
            reason = f"{len(alike)} cells of these heads do not surround it; measured (heads, KV heads, size): {heads}"
            raise DataMiss({op: reason}, self.device)
        return Estimate(value, value / 1.15, value * 1.15, "interpolated")

    def _sheet(self, op: Op) -> Estimate:
        moved = {"norm": 4, "swiglu": 3}.get(op.kind, 2) * 2 * op.m * op.k  # 16-bit values in and out
        value = LAUNCH + moved / (REACHED[0] * self.facts.bandwidth)
        return Estimate(value, value / UNKNOWN_SHAPE, value * UNKNOWN_SHAPE, "data sheet")

    def _model(self, precision: str) -> tuple[Predictor, Verdict, Cells]:
        if precision not in self._models:
            cells = Cells.of(self.frame, precision, self.facts)
            verdict = find_verdict(self.folder, self.device, cells)
            if verdict is None:
                verdict = judge(self.device, cells)
                if self.folder.is_dir():
                    write_verdict(self.folder / FOLDER, self.device, cells, verdict)
            with track(None, f"fit {self.device}") as advance:
                advance(0, note=precision)
                self._models[precision] = CONTENDERS[verdict.contender](cells, 0), verdict, cells
        return self._models[precision]


def judge(device: str, cells: Cells) -> Verdict:
    """The contest of the contenders in `ENTERED`: a minute or two for a published table, on two idle cores."""
    with track(len(ENTERED) * FOLDS, f"contest on {device}") as advance:
        step = partial(advance, note=str(cells.precision))
        return Verdict.of(winner(hold_out(name, cells, step=step) for name in ENTERED))


def _doublings_outside(size: np.ndarray, cells: Cells) -> float:
    """How many doublings beyond the measured range the worst axis lies."""
    low, high = cells.sizes.min(axis=0), cells.sizes.max(axis=0)
    return float(np.max(np.maximum(np.log2(low / size), np.log2(size / high)).clip(min=0)))
