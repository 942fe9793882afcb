from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_pack import SUBJECTS, pack, write_model  # noqa: F401 (a fixture)
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.tasks.hellaswag.utils import preprocess
from scored_model import random_llama

from benchmarks.stock_lm_eval import asked, stock_answer, stock_samples
from hwfit.deploy.bundle import quantise_bundle
from hwfit.deploy.folder import deploy
from hwfit.errors import HwfitError
from hwfit.evaluate.ask import TargetLM, ask, draw
from hwfit.evaluate.benchmarks import BENCHMARKS, PAPER, parse_shots, parse_tasks
from hwfit.evaluate.pack_documents import unprocessed
from hwfit.evaluate.prefix_scorer import PrefixScorer
from hwfit.evaluate.scorer import TorchScorer
from hwfit.evaluate.target import Target, find_target
from hwfit.evaluate.task_files import task_files
from hwfit.evaluate.task_result import TaskResult
from hwfit.models.llama import load_config, load_shape, load_weights
from hwfit.subnet import Subnet

DATA = {"dataset_path", "dataset_name", "dataset_kwargs", "training_split", "validation_split"}


def equals_stock(ours: TaskResult, folder: Path) -> None:
    """The same answer to every document, and the same outcome by every metric, as stock lm-eval logs them."""
    theirs = stock_samples(folder, ours.task, ours.shots, asked(ours))
    assert ours.answers == tuple(stock_answer(sample, ours.metric) for sample in theirs)
    assert ours.right == tuple(bool(sample[ours.metric]) for sample in theirs)
    for other, count in ours.others.items():
        assert count == sum(sample[other] for sample in theirs)


@pytest.mark.parametrize("name", PAPER)
def test_every_document_is_answered_as_stock_lm_eval_does(pack: Path, tmp_path: Path, name: str) -> None:  # noqa: F811
    folder, shots = write_model(tmp_path / "model"), BENCHMARKS[name].shots
    count = 4 if shots > 9 else 12
    ours = ask(find_target(str(folder), threads=1), name, shots, count, progress=False)
    assert (ours.n, ours.metric) == (count, BENCHMARKS[name].metric)
    equals_stock(ours, folder)
    assert len(set(ours.answers)) > 1 or BENCHMARKS[name].fixed


def test_few_shots_of_a_task_that_the_paper_gives_none(pack: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = write_model(tmp_path / "model")
    ours = ask(find_target(str(folder), threads=1), "boolq", 3, None, progress=False)
    assert ours.n == 16
    equals_stock(ours, folder)


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("shots", [0, 5])
def test_definitions_are_the_stock_ones_but_for_their_data(pack: Path, name: str, shots: int) -> None:  # noqa: F811
    written = list(task_files(name, shots, progress=False).glob("*.yaml"))
    assert len(written) == (9 if name == "mmlu" else 1)
    for path in written:
        ours = load_yaml(path, resolve_func=False)
        source = Path(json.loads(path.read_text().splitlines()[0].removeprefix("include: ")))
        theirs = load_yaml(source, resolve_func=False)
        assert {k: v for k, v in ours.items() if k not in DATA} == {k: v for k, v in theirs.items() if k not in DATA}
        if shots and "training_split" in theirs:
            assert ours["training_split"] == theirs["training_split"]
    for path in task_files(name, shots, "hub", progress=False).glob("*.yaml"):
        assert path.read_text().count("\n") == 1  # the stock definition as it is


def test_the_group_of_mmlu_is_one_task_for_lm_eval(pack: Path) -> None:  # noqa: F811
    folder = task_files("mmlu", 5, progress=False)
    loaded = TaskManager(include_path=str(folder), include_defaults=False).load(["mmlu"])
    assert sorted(loaded["tasks"]) == sorted(f"mmlu_{subject}" for subject in SUBJECTS)
    assert set(loaded["group_map"]["mmlu"]) == {"mmlu_stem", "mmlu_other", "mmlu_social_sciences", "mmlu_humanities"}


@given(st.text(alphabet=st.sampled_from("ab .,;\n'\""), min_size=1, max_size=30))
def test_hellaswag_columns_give_the_rendered_text_again(text: str) -> None:
    assert preprocess(unprocessed(text)) == text


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(3, 6), min_size=2, max_size=12), min_size=2, max_size=6), st.data())
def test_shared_beginnings_change_nothing(rows: list[list[int]], data: st.DataObject) -> None:
    model = random_llama()
    prefix, plain = PrefixScorer(model, 64), TorchScorer(model)
    for row in rows:
        start = data.draw(st.integers(0, len(row) - 1))
        ids = np.array([row])
        got, expected = prefix.all_logits(ids, start=start), plain.all_logits(ids, start=start)
        np.testing.assert_allclose(got, expected, atol=2e-4)
    logits = prefix.prefill(rows[0])
    np.testing.assert_allclose(logits, plain.all_logits(np.array(rows[:1]))[0, -1], atol=2e-4)
    logits = prefix.decode(5)
    np.testing.assert_allclose(logits, plain.all_logits(np.array([[*rows[0], 5]]))[0, -1], atol=2e-4)


def test_log_likelihoods_equal_stock_lm_eval(tmp_path: Path) -> None:
    """One of them twice, two with a common beginning, an empty context, one that must lose its beginning."""
    folder = write_model(tmp_path)
    pairs = [("abc", " de"), ("abc", " de"), ("abc", " dx y"), ("", "xyz"), ("tail ", "x"), ("long " * 30, "end")]
    requests = [Instance("loglikelihood", {}, pair, 0, ("t", i, 1)) for i, pair in enumerate(pairs)]
    ours = TargetLM(find_target(str(folder), threads=1), "t", progress=False)
    ours.max_length = 64
    theirs = HFLM(pretrained=str(folder), dtype="float32", batch_size=1, max_length=64, device="cpu")
    for a, b in zip(ours.loglikelihood(requests), theirs.loglikelihood(requests), strict=True):
        assert a == (pytest.approx(b[0], rel=1e-5), b[1])
    assert ours.cut == [{"task": "t", "doc": 5}]


def test_a_deployed_graph_gets_room_for_long_prompts(pack: Path, tmp_path: Path) -> None:  # noqa: F811
    """The graph holds 64 tokens; 25 shots need a thousand."""
    folder = write_model(tmp_path / "model")
    bundle = quantise_bundle(
        load_weights(folder), load_shape(folder), load_config(folder), Subnet.whole(load_shape(folder))
    )
    deployed = find_target(str(deploy(bundle, folder, tmp_path / "deployed", max_context=64)), threads=1)
    assert (deployed.kind, deployed.max_context) == ("deployed", 1024)
    ours = ask(deployed, "arc_challenge", 25, 3, progress=False)
    plain = ask(find_target(str(folder), threads=1), "arc_challenge", 25, 3, progress=False)
    assert ours.answers == plain.answers
    assert ours.cut == plain.cut > 0  # the byte tokenizer makes some of these prompts longer than 1024 tokens


def test_results_are_kept_by_model_and_question(pack: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = write_model(tmp_path / "model")
    first = ask(find_target(str(folder), threads=1), "piqa", 0, 6, progress=False)

    def refuse(context: int):
        raise AssertionError("opened again")

    def closed() -> Target:
        target = find_target(str(folder))
        target.open = refuse
        return target

    assert ask(closed(), "piqa", 0, 6, progress=False) == first
    with pytest.raises(AssertionError, match="opened again"):
        ask(closed(), "piqa", 0, 7, progress=False)
    kept = next((tmp_path / "a cache: ü" / "hwfit" / "results").rglob("piqa-*.json"))
    whole = kept.read_text()
    for damaged in (whole[:-20], whole.replace('"floor": 0.5', '"floor": 0.7'), "[" * 20_000):  # a full disk, a flip
        kept.write_text(damaged)
        with pytest.raises(AssertionError, match="opened again"):
            ask(closed(), "piqa", 0, 6, progress=False)
    write_model(folder, broken=True)
    with pytest.raises(AssertionError, match="opened again"):
        ask(closed(), "piqa", 0, 6, progress=False)


def test_more_documents_hold_those_of_fewer() -> None:
    few, many = draw({"a": 30, "b": 10}, 8), draw({"a": 30, "b": 10}, 20)
    assert sum(map(len, few.values())) == 8
    assert all(set(ids) <= set(many[task]) for task, ids in few.items())
    assert draw({"a": 3}, None) == draw({"a": 3}, 9) == {"a": [0, 1, 2]}


def test_the_floor_is_guessing_or_the_constant_answer(pack: Path, tmp_path: Path) -> None:  # noqa: F811
    target = find_target(str(write_model(tmp_path / "model")), threads=1)
    assert ask(target, "boolq", 0, 4, progress=False).floor == pytest.approx(0.75)  # always "yes", of all 16
    assert ask(target, "piqa", 0, 4, progress=False).floor == pytest.approx(0.5)
    arc = ask(target, "arc_easy", 0, None, progress=False)  # three, four and five choices in turn
    assert arc.floor == pytest.approx(np.mean([1 / (3 + i % 3) for i in range(16)]))


def result(right: int, n: int, floor: float) -> TaskResult:
    return TaskResult(
        "t", "acc", 0, tuple(map(str, range(n))), (1,) * n, (1,) * right + (0,) * (n - right), floor, {}, 0
    )


def test_near_guessing_is_marked() -> None:
    assert result(30, 100, 0.25).at_floor  # 12 % of guessers do as well
    assert not result(35, 100, 0.25).at_floor
    assert result(35, 100, 0.25).chance == pytest.approx(0.0164, abs=1e-3)
    assert result(35, 100, 0.25).stderr == pytest.approx(np.std([1] * 35 + [0] * 65, ddof=1) / 10)
    one = result(3, 5, 0.5)
    assert TaskResult.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_bad_tasks_and_shots_are_named() -> None:
    with pytest.raises(HwfitError, match="did you mean piqa") as caught:
        parse_tasks("pika,boolq,arc")
    assert len(caught.value.problems) == 2
    assert parse_tasks("mmlu, boolq,mmlu") == ("mmlu", "boolq")
    assert parse_shots("paper", PAPER) == dict(zip(PAPER, (0, 0, 10, 5, 0, 25, 5), strict=True))
    assert parse_shots("2", ("piqa",)) == {"piqa": 2}
    for shots in ("six", "-1", "26"):
        with pytest.raises(HwfitError, match="--shots"):
            parse_shots(shots, ("piqa",))
    with pytest.raises(HwfitError, match="MMLU has 5"):
        parse_shots("6", ("piqa", "mmlu"))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HwfitError, match="--device 'tpu'"):
        find_target("smollm2-135m", "tpu")
    if not torch.cuda.is_available():
        with pytest.raises(HwfitError, match="no GPU"):
            find_target("smollm2-135m", "cuda")
    with pytest.raises(HwfitError, match="neither a known name"):
        find_target("nowhere")


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_smollm2_answers_as_under_stock_lm_eval(smollm2: Path, name: str) -> None:
    target = find_target("smollm2-135m", threads=1)
    assert target.folder == smollm2
    ours = ask(target, name, min(2, BENCHMARKS[name].shots), 2, progress=False)
    equals_stock(ours, target.folder)
