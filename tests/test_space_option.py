"""`--space` in `hwfit profile` and `hwfit search`: what is asked for, what the device gives, and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from small_model import write_small_model

from hwfit import commands, search_run
from hwfit.errors import HwfitError
from hwfit.kernels.op import Op
from hwfit.latency_models.lookup import Lookup
from hwfit.latency_models.priced_space import needed_ops
from hwfit.latency_models.whole import WholeModel
from hwfit.lut_store.schema import Measurement, to_arrow
from hwfit.models.llama import load_shape
from hwfit.profiler.device_kinds import fingerprint
from hwfit.space import Space
from hwfit.space_files import open_space
from hwfit.space_option import measurable, profile_command, space_of
from hwfit.workload import PHASES, Workload

OWN = {"mlp": [256, 128], "depth": [6, 4], "precisions": ["w32", "w8a8g32"], "precision_per": "block"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("small"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OWN))
    return path


def priced_for(space: Space) -> WholeModel:
    """A table of this machine with all of `space`, every op at a microsecond."""
    key = fingerprint("cpu").key
    ops: set[Op] = set(needed_ops(space, [Workload().phase(name) for name in PHASES]))
    rows = [Measurement(op=op, status="OK", device=key, backend="none", p10=1e-6, half_width=0.0) for op in ops]
    return WholeModel(Lookup.fit(to_arrow(rows).to_pandas(), key))


def searched(model: Path, latency: WholeModel, monkeypatch, tmp_path: Path, **rules) -> Space | str:
    """The space that `hwfit search` would train on, or all that it refuses."""

    class Started(Exception):
        pass

    def start(limits, space, *rest):
        raise Started(space)

    monkeypatch.setattr(search_run, "load_latency", lambda key, tables: latency)
    monkeypatch.setattr(search_run, "refuse_infeasible", lambda *a: None)
    monkeypatch.setattr(search_run, "replace", lambda study, space: (_ for _ in ()).throw(Started(space)))
    monkeypatch.setattr(search_run, "prepare", lambda *a, **k: None)
    try:
        commands.search(str(model), ["decode=1s"], tmp_path / "run", train_on="cpu", judge=False, **rules)
    except Started as started:
        return started.args[0]
    except HwfitError as error:
        return str(error)
    raise AssertionError("the search went on without a study")


def test_a_users_file_is_searched_as_it_says(model: Path, own: Path, monkeypatch, tmp_path: Path):
    space = open_space(str(own), load_shape(model)).space
    got = searched(model, priced_for(space), monkeypatch, tmp_path, space=str(own))
    assert got == space
    assert isinstance(got, Space)
    assert (got.mlp, got.hidden, got.precision_per) == ((256, 128), (192,), "block")


def test_what_the_table_lacks_is_refused_before_training_with_the_command_that_measures_it(
    model: Path, own: Path, monkeypatch, tmp_path: Path
):
    smaller = tmp_path / "smaller.yaml"
    smaller.write_text(yaml.safe_dump({**OWN, "mlp": [256]}))
    latency = priced_for(open_space(str(smaller), load_shape(model)).space)
    text = searched(model, latency, monkeypatch, tmp_path, space=str(own), tables=tmp_path / "my tables")
    assert isinstance(text, str)
    assert "w8a8g32: down_proj: 2 of 13 shapes, m 1…128, n 192, k 128: outside the" in text
    assert "swiglu: swiglu: 2 of 4 shapes, m 1…128, k 128: outside the" in text
    assert f"measure them with: hwfit profile {model} --space {own} --tables '{tmp_path}/my tables'" in text
    assert not (tmp_path / "run").exists()


def test_auto_gives_up_what_the_table_lacks_and_says_so(model: Path, monkeypatch, tmp_path: Path, capsys):
    whole = Space.for_device(load_shape(model))
    latency = priced_for(Space.default(load_shape(model), ("w32", "w4a8g32")))
    got = searched(model, latency, monkeypatch, tmp_path)
    assert isinstance(got, Space)
    assert [p.name for p in got.precisions] == ["w32", "w4a8g32"]
    assert got.hidden == whole.hidden
    told = capsys.readouterr().out
    for name in ("w8a8", "w8a8g32", "w2a8g32"):
        assert name in told.partition("cannot price")[2]
    asked = searched(model, latency, monkeypatch, tmp_path, precision=["w32", "w8a8"])
    assert isinstance(asked, str)
    assert f"hwfit profile {model} --precision w32 --precision w8a8" in asked


def test_a_table_of_the_whole_space_changes_nothing(model: Path, monkeypatch, tmp_path: Path):
    whole = Space.for_device(load_shape(model))
    assert searched(model, priced_for(whole), monkeypatch, tmp_path) == whole


def test_profile_measures_what_runs_of_a_space_and_names_the_rest(model: Path, tmp_path: Path, capsys):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**OWN, "precisions": ["w8a8g32", "w8a4g32", "w8a16g32"], "lm_head": ["w32"]}))
    space = measurable(space_of(model, str(path)), "cpu")
    assert [p.name for p in space.precisions] == ["w32", "w8a8g32"]
    told = capsys.readouterr().out
    assert f"{2 * 2 * 3**6:,} candidates" in told
    assert "w8a4g32 is not measured: MatMulNBits rounds activations to 8 bits, not 4; use w8a8g32" in told
    path.write_text(yaml.safe_dump({**OWN, "precisions": ["w16a16"]}))
    with pytest.raises(HwfitError, match="no precision of it runs on cpu"):
        measurable(space_of(model, str(path)), "cpu")


def test_the_command_holds_what_differs_from_the_defaults():
    got = profile_command("fine", Workload(batch=4, prompt=512, context=1024), "M", "cuda", None, ())
    assert got == "hwfit profile M --space fine --device cuda --batch 4 --prompt 512 --context 1024"
    assert profile_command("auto", Workload(), "M", "cpu", None, ()) == "hwfit profile M"
