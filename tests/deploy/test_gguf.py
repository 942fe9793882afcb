"""GGUF: block types against the gguf package, and tokenizers against the tokenizers library."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from deploy_llama import LLAMA3
from export_llama import TEXT, merging_tokenizer, searched, write_searched
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer

from hwfit.deploy.exporters import export_bundle
from hwfit.deploy.gguf import gguf_name, write_gguf
from hwfit.deploy.gguf_tokenizer import SPLITS, pre_tokenizer, read_vocabulary
from hwfit.deploy.gguf_types import typed
from hwfit.errors import HwfitError
from hwfit.kernels.quantise import Grid, Quantised, clipped_grid, dequantise, quantise
from hwfit.precision import Precision

HALF = 2**-11  # what rounding to fp16 changes at most, relatively


def random_weight(name: str, k: int = 512, n: int = 24) -> Quantised:
    w = torch.randn(n, k, generator=torch.Generator().manual_seed(len(name) + k)) * torch.rand(n, 1)
    p = Precision.parse(name)
    return quantise(w, p, clipped_grid(w, p))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, Type.Q4_1) for name in ("w4a8g32", "w4a8g64", "w4a16g128", "w4a8", "w3a16g32")),
        *((name, Type.Q8_0) for name in ("w8a8g32", "w8a8g128", "w8a8", "w8a16")),
    ],
)
def test_codes_are_kept_and_scales_rounded_to_fp16(name: str, kind: Type) -> None:
    q = random_weight(name)
    made = typed(q)
    assert made.type == kind
    expected = dequantise(q).numpy()
    zero = 0 if q.grid.zeros is None else (q.grid.zeros * q.grid.scales).numpy()  # m is rounded, too
    size = q.precision.group or 512
    allowed = HALF * (np.abs(expected) + 2 * np.repeat(np.broadcast_to(zero, q.grid.scales.shape), size, 1)) + 1e-7
    assert (np.abs(dequantize(made.data, made.type) - expected) <= allowed).all()
    assert np.array_equal(made.values(), dequantize(made.data, made.type))


def test_symmetric_four_bits_are_q4_0() -> None:
    q = random_weight("w4a8g32")
    middle = Quantised(q.codes, Grid(q.grid.scales, torch.full_like(q.grid.scales, 8)), q.precision)
    made = typed(middle)
    assert made.type == Type.Q4_0
    assert np.abs(made.values() - dequantise(middle).numpy()).max() <= HALF * dequantise(middle).abs().max()


@pytest.mark.parametrize("name", ["w2a8g32", "w2a8g64", "w2a16"])
def test_two_bits_are_q2_k_where_it_fits_with_a_small_error(name: str) -> None:
    q = random_weight(name)
    made = typed(q)
    assert made.type == Type.Q2_K
    assert made.data.nbytes == q.codes.numel() * 84 // 256
    w = dequantise(q).numpy()
    error = np.linalg.norm(made.values() - w) / np.linalg.norm(w)
    print(f"{name}: {error:.2%}")
    assert error < 0.07  # two bits themselves lost about 40 %
    assert typed(random_weight(name, k=128 if name != "w2a16" else 96)).type == Type.Q4_1


def test_a_scale_of_all_zero_groups() -> None:
    for name in ("w2a8g32", "w4a8g32", "w8a8g32"):
        p = Precision.parse(name)
        made = typed(quantise(torch.zeros(2, 256), p))
        assert not made.values().any()


def test_floats_and_odd_widths() -> None:
    assert typed(torch.ones(2, 3)).type == Type.F32
    assert typed(torch.ones(2, 3).half()).type == Type.F16
    assert typed(random_weight("w8a8", k=48)).type == Type.F16


def test_every_tensor_has_the_type_of_its_precision(tmp_path: Path) -> None:
    bundle = searched(("w4a8g32", "w8a8", "w2a8g32", "w16a16", "w32", "fp8"), mlp=(256,) * 3)
    exported = export_bundle(bundle, write_searched(bundle, tmp_path / "s"), tmp_path / "out", "gguf")
    types = {t.name: t.tensor_type for t in gguf.GGUFReader(exported.path).tensors}
    expected = {"w4": Type.Q4_1, "w8": Type.Q8_0, "w2": Type.Q4_1, "w16": Type.F16, "w32": Type.F32, "fp8": Type.F16}
    for name, (_, k, p) in {f"{n}.weight": s for n, s in bundle.subnet.linears.items()}.items():
        block, _, linear = name.removesuffix(".weight").rpartition(".")
        module = f"model.layers.{block}.x.{linear}" if block else linear
        kind = "fp8" if p.float8 else f"w{p.weight_bits}"
        wanted = Type.Q2_K if kind == "w2" and k % 256 == 0 else expected[kind]
        assert types[gguf_name(f"{module}.weight")] == wanted, name
    assert types["blk.0.attn_norm.weight"] == types["output_norm.weight"] == Type.F32
    said = " ".join(exported.notes)
    assert "w4a8g32 -> Q4_1" in said
    assert "w8a8 -> Q8_0" in said


def test_stretched_rotary_is_written_as_factors(tmp_path: Path) -> None:
    """Pair i of llama.cpp turns by theta^(-2i/d) / factor i; transformers computes the same frequencies."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    rope = {**LLAMA3, "rope_theta": 5000.0, "original_max_position_embeddings": 16}
    bundle = searched(("w8a8",), rope=rope)
    folder = write_searched(bundle, tmp_path / "s")
    notes = write_gguf(bundle, folder, tmp_path)
    assert any("rope_freqs" in note for note in notes)
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    factors = next(t.data for t in reader.tensors if t.name == "rope_freqs.weight")
    mine = 5000.0 ** (-np.arange(0, 16, 2) / 16) / factors
    config = LlamaConfig(hidden_size=96, num_attention_heads=6, head_dim=16, rope_parameters=rope)
    assert np.allclose(mine, LlamaRotaryEmbedding(config).inv_freq.numpy(), rtol=1e-6)
    assert factors.max() > 4


def test_vocabulary(tmp_path: Path) -> None:
    merging_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    v = read_vocabulary(tmp_path, {"bos_token_id": 1, "eos_token_id": [2, 0]}, 512)
    assert (v.pre, v.ids, v.adds_bos, v.template) == ("gpt-2", {"bos": 1, "eos": 2}, False, "{{ messages }}")
    assert len(v.tokens) == len(v.types) == 512
    assert v.tokens[:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert v.types[:4] == [3, 3, 3, 1]
    assert v.tokens[511] == "[PAD511]"
    assert v.types[511] == 5
    assert v.merges[:2] == ["h e", "l l"]
    with pytest.raises(HwfitError, match="beyond the embedding's 100 rows"):
        read_vocabulary(tmp_path, {}, 100)


def test_digits_one_by_one_are_smollms(tmp_path: Path) -> None:
    merging_tokenizer(digits=True).save_pretrained(tmp_path)
    assert read_vocabulary(tmp_path, {}, 512).pre == "smollm"


@pytest.mark.parametrize("pattern", SPLITS, ids=SPLITS.values())
def test_known_splits_are_valid_expressions(pattern: str) -> None:
    step = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [step, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    assert pre_tokenizer(json.loads(tokenizer.to_str())["pre_tokenizer"]) == SPLITS[pattern]
    parts = [text for text, _ in step.pre_tokenize_str("in 12345")]
    assert parts == (["in", " ", "123", "45"] if SPLITS[pattern] == "llama-bpe" else ["in", " ", *"12345"])


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"type": "Metaspace", "replacement": "▁"},
        {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True},
        {"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "ByteLevel", "use_regex": True}]},
        {"type": "Sequence", "pretokenizers": []},
    ],
    ids=str,
)
def test_other_ways_of_splitting_have_no_name(found: dict) -> None:
    assert pre_tokenizer(found) is None


def test_tokenizers_that_gguf_cannot_describe_are_refused(tmp_path: Path) -> None:
    bundle = searched(("w8a8",))
    folder = write_searched(bundle, tmp_path / "s")
    path = folder / "tokenizer.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "pre_tokenizer": {"type": "Whitespace"}}))
    with pytest.raises(HwfitError, match=r"no known name in llama\.cpp"):
        export_bundle(bundle, folder, tmp_path / "out", "gguf")
    for text in ("{", "[]", json.dumps({**raw, "model": {"type": "Unigram", "vocab": []}})):
        path.write_text(text)
        with pytest.raises(HwfitError, match="not a byte-level BPE"):
            export_bundle(bundle, folder, tmp_path / "out", "gguf")
    assert not (tmp_path / "out").exists()


def test_transformers_rebuilds_the_tokenizer_from_the_file_alone(tmp_path: Path) -> None:
    bundle = searched(("w8a8",))
    exported = export_bundle(bundle, write_searched(bundle, tmp_path / "s"), tmp_path / "out", "gguf")
    assert not (exported.folder / "tokenizer.json").exists()
    tokenizer = AutoTokenizer.from_pretrained(exported.folder, gguf_file="model.gguf")
    assert tokenizer(TEXT)["input_ids"] == merging_tokenizer()(TEXT)["input_ids"]
