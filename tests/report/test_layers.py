from __future__ import annotations

from pathlib import Path

import pytest

from hwfit.report.layers import FAMILIES, OTHER, layer_bars, stage_bars
from hwfit.report.results import read_results
from hwfit.workload import PHASES, PhaseName


@pytest.mark.parametrize("phase", PHASES)
def test_shares_are_those_of_the_layers_and_add_up(run_dir: Path, raw: dict, phase: PhaseName) -> None:
    results = read_results(run_dir)
    figure = layer_bars(results, phase)
    assert figure is not None
    bars = {bar["name"]: dict(zip(bar["y"], bar["x"], strict=True)) for bar in figure.to_dict()["data"]}
    for row in results.rows:
        assert sum(shares[row.name] for shares in bars.values()) == pytest.approx(100)
        times = {
            layer["kind"]: layer["seconds"]
            for layer in raw["layers"]
            if layer["row"] == row.name and layer["phase"] == phase
        }
        assert bars["LM head"][row.name] == pytest.approx(100 * times["lm_head"] / sum(times.values()))


def test_no_layers_no_bars(run_dir: Path, raw: dict) -> None:
    import json

    (run_dir / "results.json").write_text(json.dumps(raw | {"layers": []}))
    assert layer_bars(read_results(run_dir), "decode") is None


def test_families_differ_in_grey() -> None:
    def grey(colour: str) -> float:
        r, g, b = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return 0.299 * r + 0.587 * g + 0.114 * b

    families = (*FAMILIES, OTHER)
    for i, a in enumerate(families):
        for b in families[i + 1 :]:
            assert a.shape != b.shape or abs(grey(a.colour) - grey(b.colour)) > 60, (a.title, b.title)


def test_stages_say_their_time(run_dir: Path) -> None:
    results = read_results(run_dir)
    (bar,) = stage_bars(results).to_dict()["data"]
    assert bar["x"] == pytest.approx([stage.seconds / 60 for stage in results.stages])
    assert bar["text"][1] == "3 min 32 s"
