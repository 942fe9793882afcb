"""Spaces in YAML: the paper's two to the last candidate, fractions of any model, and every mistake told at once."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import pytest
from model_shapes import LLAMA_8B, SMOLLM2

from hwfit.errors import HwfitError
from hwfit.latency_models.choices import outside
from hwfit.precision import COUNTED, KNOWN, Precision
from hwfit.space import Space
from hwfit.space_files import open_space, presets
from hwfit.subnet import LINEARS, ModelShape

TINY = ModelShape(hidden=64, heads=4, kv_heads=2, head_size=8, mlp=96, blocks=2, vocab=16)


def problems(name: str | Path, shape: ModelShape = SMOLLM2, **rules) -> str:
    with pytest.raises(HwfitError) as caught:
        open_space(str(name), shape, **rules)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_papers_spaces_have_exactly_its_candidates(device: str):
    llama3 = open_space("llama3", LLAMA_8B, device).space
    assert llama3.candidates() == 15_360
    axes = (llama3.hidden, llama3.heads, llama3.head_size, llama3.mlp, llama3.depth)
    assert len(list(product(*axes))) == 15_360
    assert set(llama3.hidden) == {2**i for i in range(5, 13)}
    assert set(llama3.mlp) == {int(4096 * times) for times in (1, 2, 3, 3.5)}
    qllama3 = open_space("qllama3", LLAMA_8B, device).space
    assert qllama3.candidates() == 6 * 2 * 3 * 4 * 3**32 * 4**32 * 32
    offered = [qllama3.precisions[i] for i in qllama3.options(LINEARS[0])]
    assert {(p.weight_bits, p.act_bits, p.group) for p in offered} == set(product((2, 4, 8), (2, 4, 8, 16), (128,)))
    assert [qllama3.precisions[i].weight_bits for i in qllama3.options("lm_head")] == [32 if device == "cpu" else 16]


@pytest.mark.parametrize("name", presets())
@pytest.mark.parametrize(("device", "sm"), [("cpu", None), ("cuda", 80)])
@pytest.mark.parametrize("shape", [LLAMA_8B, SMOLLM2])
def test_presets_fit_or_say_which_axes_do_not(name: str, device: str, sm: int | None, shape: ModelShape):
    if name.endswith("llama3") and shape is SMOLLM2:
        text = problems(name, shape, device=device, sm=sm)
        for axis in ("hidden=4096", "heads=32", "head_size=128", "mlp=14336", "depth=32"):
            assert f"--space {name}: {axis}" in text
        return
    opened = open_space(name, shape, device, sm=sm)
    assert opened.space.hidden[0] == shape.hidden
    assert opened.space.depth[0] == shape.blocks
    rng = random.Random(0)
    for _ in range(20):
        subnet = opened.space.sample(rng)
        subnet.check(shape)
        assert not outside(opened.space, subnet)


def test_the_fine_space_has_groups_and_mlp_widths_of_their_own_and_keeps_full_precision():
    space = open_space("fine", LLAMA_8B, "cuda", sm=80).space
    assert {p.group for p in space.precisions} == {None, 32, 64, 128}
    assert space.precisions[0].name == "w16a16"
    assert space.mlp_per_block
    assert space.candidates() == 4 * 2 * 1 * 8 * 5**32 * 8 ** (7 * 32 + 1)
    drawn = space.sample(random.Random(1))
    assert len(set(drawn.mlp)) > 1
    smaller = open_space("fine", SMOLLM2, "cpu")
    assert "w4a8g128" in smaller.left_out[0]
    assert {p.group for p in smaller.space.precisions} == {None, 32, 64}


def test_counting_agrees_with_listing(tmp_path: Path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "hidden: [64, 32]\nhead_size: 8\nmlp: [96, 64, 32]\nmlp_per_block: true\nprecision_per: block\n"
        "precisions: [w32, w8a8, w4a8g32]\nlm_head: [w8a8, w8a8g32]\n"
    )
    space = open_space(str(path), TINY).space
    blocks = list(product(space.mlp, [space.precisions[i] for i in space.options(LINEARS[0])]))
    heads = [space.precisions[i] for i in space.options("lm_head")]
    assert [p.name for p in heads] == ["w8a8g32", "w8a8"]
    assert space.candidates() == len(list(product(space.hidden, blocks, blocks, heads))) == 2 * 9 * 9 * 2


def test_fractions_are_those_of_whatever_model_is_given(tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "hidden: {fractions: [1, 3/4, 0.5], multiple: 64}\nheads: {fractions: [1, 2/3]}\n"
        "mlp: {fractions: [3/4, 1/2], multiple: 128}\ndepth: {range: [10, 30], step: 10}\nprecisions: [w8a8]\n"
    )
    space = open_space(str(path), SMOLLM2).space
    assert (space.hidden, space.heads, space.head_size) == ((576, 448, 256), (9, 6), (64,))
    assert (space.mlp, space.depth) == ((1152, 768), (30, 20, 10))
    other = open_space(str(path), LLAMA_8B).space
    assert (other.hidden, other.heads, other.mlp) == ((4096, 3072, 2048), (32, 20), (10752, 7168))
    assert open_space(str(path), SMOLLM2, precisions=["w32", "w4a8g32"]).space.precisions[1].name == "w4a8g32"


def test_every_mistake_in_a_file_is_told_at_once(tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text(
        "hidden: [576, 600]\nheads: {fractions: [1, 5/4]}\nmlp: {fraction: [1]}\ndepth: {range: [1, many]}\n"
        "precisions: [w4a8g32, w5a8]\nlm_head: {gpu: [w32]}\nembed: [w32, w8a8]\nprecision_per: layer\nfit_groups: 3\n"
    )
    text = problems(path)
    for part in (
        "hidden=600 does not fit the model, whose hidden is 576",
        "heads: {'fractions': [1, '5/4']} is no axis",
        "mlp: key 'fraction' is unknown; allowed: fractions, multiple, range, step (did you mean fractions?)",
        "depth: {'range': [1, 'many']} is no axis",
        "precisions: precision 'w5a8' is unknown",
        "lm_head: device 'gpu' is unknown; allowed: cpu, cuda",
        "embed: one precision, not 2",
        "precision_per: 'layer' is unknown; allowed: block, linear",
        "fit_groups: '3' must be true or false",
    ):
        assert part in text, part
    assert all(line.startswith(f"--space {path}: ") for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hiden: [576]", "key 'hiden' is unknown; allowed: depth"),
        ("[1, 2]", "must be a mapping"),
        ("hidden: [", "cannot be read"),
        ("!!python/object/apply:os.system ['true']", "cannot be read"),
        ("heads: [9, 4]", "heads=4 is no multiple of the model's 3 queries a KV head"),
        ("head_size: [64, 48]", "head_size=48 must be 64 divided by a power of two"),
        ("precisions: [w4a8g128]", "group size 128 of w4a8g128 does not divide its input width 576"),
        ("precisions: {cuda: [w16a16]}", "says nothing about device 'cpu'; it does about: cuda"),
    ],
)
def test_files_that_mean_no_space(tmp_path: Path, text: str, told: str):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    assert told in problems(path)


def test_unknown_presets_name_the_nearest():
    assert "did you mean qllama3?" in problems("qlama3")
    assert "cannot be read" in problems("nowhere.yaml")


def test_what_no_kernel_runs_can_be_counted_but_is_no_known_precision():
    assert not set(COUNTED) & set(KNOWN)
    assert Precision.parse("w4a2g128").act_bits == 2


def test_the_space_of_a_stored_result_is_described_as_ever():
    """Digests of stored results hold this text."""
    space = Space.default(TINY, ("w32", "w8a8"), "w8a8g32", 32)
    assert repr(space.to_dict()) == (
        "{'hidden': [64, 32], 'heads': [4, 2], 'head_size': [8, 4], 'mlp': [96], 'depth': [2, 1], "
        "'precisions': ['w32', 'w8a8'], 'embed': 'w8a8g32'}"
    )
    per_block = open_space("qllama3", LLAMA_8B).space.to_dict()
    assert per_block["precision_per"] == "block"
    assert per_block["lm_head"] == ["w32"]


@pytest.mark.parametrize(
    ("kv_heads", "head_size", "tied"), [(8, 16, False), (4, 16, True), (2, 32, False), (1, 16, True)]
)
def test_derived_spaces_keep_whole_key_value_groups_and_rotary_pairs(kv_heads: int, head_size: int, tied: bool):
    """Multi-head, grouped-query and multi-query attention; a tied embedding changes no width."""
    config = {"hidden_size": 128, "num_attention_heads": 8, "num_key_value_heads": kv_heads, "head_dim": head_size}
    config |= {"intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": 64, "tie_word_embeddings": tied}
    shape = ModelShape.from_config(config)
    space = open_space("auto", shape).space
    assert space.heads[0] == 8
    for heads in space.heads:
        assert heads % (8 // kv_heads) == 0
        assert space.kv_heads(heads) * 8 == heads * kv_heads
    assert space.head_size == (head_size, head_size // 2)
    rng = random.Random(kv_heads)
    for _ in range(10):
        space.sample(rng).check(shape)
