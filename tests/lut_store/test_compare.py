"""Changes between tables: found when they are there, not found when there is only noise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from hwfit.errors import HwfitError
from hwfit.kernels.op import linear
from hwfit.lut_store.compare import compare
from hwfit.lut_store.schema import Measurement, to_arrow

SHAPES = [(n, k) for n in range(64, 576, 64) for k in (128, 256, 512)]


def frame(factor: float, noise: float, seed: int, precision: str = "w8a16") -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = [
        Measurement(
            op=linear(1, n, k, precision),
            status="OK",
            device="d",
            backend="b",
            p10=1e-9 * n * k * factor * float(np.exp(noise * generator.standard_normal())),
        )
        for n, k in SHAPES
    ]
    return to_arrow(rows).to_pandas()


def test_a_real_change_is_told_from_noise() -> None:
    old = pd.concat([frame(1, 0.02, 0), frame(1, 0.02, 1, "w4a16")])
    new = pd.concat([frame(1.06, 0.02, 2), frame(1, 0.02, 3, "w4a16")])
    found = {change.group: change for change in compare(old, new)}
    slower = found["linear w8a16 m=1"]
    assert slower.verdict == "slower"
    assert slower.ratio == pytest.approx(1.06, rel=0.02)
    assert slower.cells == len(SHAPES)
    assert found["linear w4a16 m=1"].verdict == "no change"


def test_noise_alone_is_rarely_called_a_change() -> None:
    verdicts = [compare(frame(1, 0.02, 2 * s), frame(1, 0.02, 2 * s + 1))[0].verdict for s in range(60)]
    assert sum(v != "no change" for v in verdicts) <= 4


def test_nothing_in_common_is_an_error() -> None:
    with pytest.raises(HwfitError, match="no cell in common"):
        compare(frame(1, 0, 0), frame(1, 0, 0, "w4a16"))
