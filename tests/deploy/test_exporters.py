"""The contract of every export: another tool loads it and computes what the fake-quantised subnet computes."""

import dataclasses
import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from deploy_llama import LLAMA3, hook_inputs, llama_with
from export_llama import (
    IDS,
    SERVED,
    TEXT,
    a_token,
    logits,
    merging_tokenizer,
    norm_error,
    padded,
    searched,
    twin,
    write_searched,
)
from gguf_names import GGUF_NAMES
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from hwfit.deploy.bundle import Bundle, load_bundle
from hwfit.deploy.exporters import FORMATS, Exported, export_bundle
from hwfit.errors import HwfitError
from hwfit.kernels.quantise import fake_quantise_activations
from hwfit.precision import Precision

KEYS = ("weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
Rounding = Callable[[Precision, Tensor], Tensor]


def load_hf(path: Path) -> np.ndarray:
    return logits(AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False, dtype=torch.float32))


def load_compressed(path: Path) -> np.ndarray:
    """With compressed-tensors' own reader of each module, into a Llama whose linears round as its forward does: what
    from_pretrained would do, had it the zero points right."""
    reader = pytest.importorskip("compressed_tensors.compressors").BaseCompressor
    quantization = pytest.importorskip("compressed_tensors.quantization")
    config = json.loads((path / "config.json").read_text())
    if "quantization_config" not in config:
        return load_hf(path)
    told = quantization.QuantizationConfig.model_validate(config.pop("quantization_config"))
    tensors = load_file(path / "model.safetensors")
    schemes = {name: scheme for scheme in told.config_groups.values() for name in scheme.targets}
    assert not set(schemes) & set(told.ignore)
    for name, scheme in schemes.items():
        parts = {key: tensors.pop(f"{name}.{key}") for key in KEYS if f"{name}.{key}" in tensors}
        wide = {key: t.float() if key == "weight_scale" else t for key, t in parts.items()}
        dense = reader.get_value_from_registry(scheme.format).decompress(wide, scheme)
        tensors[f"{name}.weight"] = dense["weight"]
    model = llama_with({name: t.float() for name, t in tensors.items()}, config)
    dynamic = {name: s.input_activations for name, s in schemes.items() if s.input_activations}

    def rounded(name: str, x: Tensor) -> Tensor:
        if name not in dynamic:
            return x
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize
        from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

        scale, zero = compute_dynamic_scales_and_zp(x, dynamic[name], torch.nn.Module())
        return fake_quantize(x, scale, zero, dynamic[name])

    hook_inputs(model, rounded)
    return logits(model)


def load_symmetric(path: Path) -> np.ndarray:
    pytest.importorskip("compressed_tensors")
    return load_hf(path)


def load_gguf(path: Path) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    return logits(model)


def read_gguf(path: Path) -> np.ndarray:
    """With the gguf package and llama.cpp's documented order of rows, for files that transformers does not take."""
    reader = gguf.GGUFReader(path)

    def field(key: str) -> Any:
        found = reader.get_field(key) or reader.get_field(f"{architecture}.{key}")
        return found.contents() if found else None

    architecture = field("general.architecture")
    widths, size = field("feed_forward_length"), field("attention.key_length")
    heads, kv_heads = field("attention.head_count"), field("attention.head_count_kv")
    names = {t: n for n, t in GGUF_NAMES.items()}
    weights: dict[str, Tensor] = {}
    for item in reader.tensors:
        w = gguf.quants.dequantize(item.data, item.tensor_type)
        stem = item.name.removesuffix(".weight")
        if pairs := {"attn_q": heads, "attn_k": kv_heads}.get(stem.rpartition(".")[2]):
            w = w.reshape(pairs, size // 2, 2, -1).swapaxes(1, 2).reshape(w.shape)
        block = f"model.layers.{stem.split('.')[1]}." if stem.startswith("blk.") else ""
        weights[f"{block}{names[stem.rpartition('.')[2]]}.weight"] = torch.tensor(w)
    config = {
        "hidden_size": field("embedding_length"),
        "intermediate_size": max(widths) if isinstance(widths, list) else widths,
        "num_hidden_layers": field("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": size,
        "vocab_size": field("vocab_size"),
        "rms_norm_eps": field("attention.layer_norm_rms_epsilon"),
        "rope_parameters": {"rope_type": "default", "rope_theta": field("rope.freq_base")},
    }
    if isinstance(widths, list):
        assert architecture == "deci"
        weights = padded(weights, widths)
    return logits(llama_with(weights, config))


def load_onnx(path: Path) -> np.ndarray:
    """With the exported runner, which knows nothing of hwfit, token by token."""
    spec = importlib.util.spec_from_file_location("runner", path.parent / "generate.py")
    assert spec is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)  # type: ignore[union-attr]
    rows = []
    for row in IDS:
        model = runner.Model(path, 1)
        rows.append(np.stack([model([int(token)]) for token in row]))
    return np.stack(rows)


def no_rounding(p: Precision, x: Tensor) -> Tensor:
    return x


def token_by_token(p: Precision, x: Tensor) -> Tensor:
    """As the kernels round one token a call."""
    return torch.cat([fake_quantise_activations(x[:, i : i + 1], p) for i in range(x.shape[1])], 1)


@dataclass(frozen=True)
class Case:
    """How a format is read, what it rounds, and how far its logits may be from the twin's (relative norm).

    `bound` is for subnets whose inputs are not rounded. Where they are, one on a rounding boundary flips to the next of
    255 steps and the rest of its sequence is another draw of the rounding noise: see test_onnx_runtime.
    """

    load: Callable[[Path], np.ndarray]
    rounding: Rounding
    bound: float


CASES = {
    "hf": Case(load_hf, no_rounding, 1e-5),
    "compressed-tensors": Case(load_compressed, a_token, 2e-3),  # scales and plain weights in fp16
    "compressed-tensors-symmetric": Case(load_symmetric, a_token, 2e-3),
    "gguf": Case(load_gguf, no_rounding, 2e-3),  # scales in fp16
    "onnx": Case(load_onnx, token_by_token, 1e-5),
}
FLIPS = 2e-2


def test_every_format_is_tested() -> None:
    assert set(CASES) == set(FORMATS)


def export(bundle: Bundle, tmp_path: Path, format: str, nearest: bool = False) -> Exported:
    folder = write_searched(bundle, tmp_path / "searched")
    return export_bundle(load_bundle(folder), folder, tmp_path / "out", format, nearest)


def compared(tmp_path: Path, format: str, bundle: Bundle) -> tuple[float, Exported, np.ndarray]:
    exported = export(bundle, tmp_path, format, nearest=True)
    got = CASES[format].load(exported.path)
    error = norm_error(got, logits(twin(exported.bundle, CASES[format].rounding)))
    print(f"{format}: {error:.1e} from the fake-quantised twin; {'; '.join(exported.notes)}")
    return error, exported, got


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("format", FORMATS)
def test_logits_round_trip(tmp_path: Path, format: str, seed: int) -> None:
    """Mixed precisions, a dropped block, sliced widths: the other tool's logits are the twin's."""
    bundle = searched(seed=seed)
    error, exported, got = compared(tmp_path, format, bundle)
    kept = norm_error(logits(twin(exported.bundle)), logits(twin(bundle)))
    assert error < FLIPS
    assert kept < 1e-3  # the nearest subnet has the same weights, but for fp16
    assert norm_error(got, logits(twin(searched(seed=seed + 7), CASES[format].rounding))) > 0.1  # it can fail


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("format", FORMATS)
def test_logits_round_trip_where_no_input_is_rounded(tmp_path: Path, format: str, seed: int) -> None:
    choices = (
        ("w32", "w16a16") if format == "onnx" else ("w32", "w16a16", "w8a16", "w8a8g32", "w4a8g32", "w4a16", "w3a16g32")
    )
    assert compared(tmp_path, format, searched(choices, seed))[0] < CASES[format].bound


@pytest.mark.parametrize("format", FORMATS)
def test_an_uneven_mlp_is_held_as_it_is_or_refused_with_the_nearest(tmp_path: Path, format: str) -> None:
    bundle = searched(("w8a8g32", "w4a8g32", "w32"), mlp=(128, 64, 192))
    takes_it = format in ("onnx", "gguf")
    if not takes_it:
        with pytest.raises(HwfitError, match=r"differ between blocks \(\[64, 128, 192\]\).*192 in every block"):
            export(bundle, tmp_path, format)
        assert not (tmp_path / "out").exists()
    exported = export(bundle, tmp_path, format, nearest=True)
    case = CASES[format]
    bound = FLIPS if format == "onnx" else case.bound
    load = read_gguf if format == "gguf" else case.load
    assert norm_error(load(exported.path), logits(twin(bundle, case.rounding))) < bound
    assert any("filled up with zeros" in note for note in exported.notes) != takes_it
    assert set(exported.bundle.subnet.mlp) == ({64, 128, 192} if takes_it else {192})


@pytest.mark.parametrize("format", FORMATS)
def test_heads_that_do_not_divide_the_hidden_size(tmp_path: Path, format: str) -> None:
    bundle = searched(("w8a8g32", "w32"), hidden=64)
    case = CASES[format]
    exported = export(bundle, tmp_path, format, nearest=True)
    load = case.load
    if format == "gguf":
        assert any("transformers does not read" in note for note in exported.notes)
        load = read_gguf
    bound = FLIPS if format == "onnx" else case.bound
    assert norm_error(load(exported.path), logits(twin(exported.bundle, case.rounding))) < bound


@pytest.mark.parametrize("format", [f for f in FORMATS if f != "gguf"])
def test_stretched_rotary(tmp_path: Path, format: str) -> None:
    bundle = searched(("w32",), rope={**LLAMA3, "rope_theta": 5000.0, "original_max_position_embeddings": 16})
    plain = searched(("w32",), rope={"rope_type": "default", "rope_theta": 5000.0})
    case = CASES[format]
    exported = export(bundle, tmp_path, format, nearest=True)
    expected = logits(twin(exported.bundle))
    assert norm_error(case.load(exported.path), expected) < case.bound
    assert norm_error(logits(twin(plain)), expected) > 2 * case.bound


@pytest.mark.parametrize("format", FORMATS)
def test_the_tokenizer_comes_with_it(tmp_path: Path, format: str) -> None:
    exported = export(searched(("w8a8g32",)), tmp_path, format, nearest=True)
    if format == "gguf":
        tokenizer = AutoTokenizer.from_pretrained(exported.folder, gguf_file=exported.path.name)
    else:
        tokenizer = AutoTokenizer.from_pretrained(exported.folder)
    assert tokenizer(TEXT)["input_ids"] == merging_tokenizer()(TEXT)["input_ids"]
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    assert tokenizer.eos_token_id == 2


@pytest.mark.parametrize("format", FORMATS)
def test_who_may_read_it_is_as_for_anything_new(tmp_path: Path, format: str) -> None:
    """A server often runs as another user than the one that exported."""
    folder = export(searched(("w8a8g32",)), tmp_path, format, nearest=True).folder
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    like = {kind: (tmp_path / kind).stat().st_mode for kind in ("file", "folder")}
    modes = {path.name: path.stat().st_mode for path in folder.rglob("*") if path.is_file()}
    assert modes == dict.fromkeys(modes, like["file"])
    assert folder.stat().st_mode == like["folder"]


@pytest.mark.parametrize("format", FORMATS)
def test_a_failed_write_leaves_nothing_or_the_earlier_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    bundle = searched(("w8a8",))
    folder = write_searched(bundle, tmp_path / "searched")

    def fail(exported: Exported) -> str:  # the card is written after everything else
        raise OSError(28, "No space left on device")

    for before in ([], ["first"]):
        if before:
            export_bundle(bundle, folder, tmp_path / "out", format)
        files = {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()}
        with pytest.raises(OSError, match="No space"):
            export_bundle(bundle, folder, tmp_path / "out", format, card=fail)
        assert {f: f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()} == files
        assert (tmp_path / "out").exists() == bool(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "searched"]


@pytest.mark.parametrize("format", FORMATS)
def test_exporting_again_replaces_an_export_and_nothing_else(tmp_path: Path, format: str) -> None:
    bundle = searched(("w8a8",))
    folder = write_searched(bundle, tmp_path / "searched")
    out = tmp_path / "out"
    export_bundle(bundle, folder, out, "hf" if format != "hf" else "gguf")
    export_bundle(bundle, folder, out, format)
    export_bundle(bundle, folder, tmp_path / "fresh", format)
    names = {f.name for f in out.iterdir()}
    assert names == {f.name for f in (tmp_path / "fresh").iterdir()}
    assert json.loads((out / "export.json").read_text())["format"] == format
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("words")
    with pytest.raises(HwfitError, match="no export of hwfit"):
        export_bundle(bundle, folder, mine, format)
    with pytest.raises(HwfitError, match="is a file"):
        export_bundle(bundle, folder, mine / "thesis.txt", format)
    other = write_searched(bundle, tmp_path / "other")
    (other / "export.json").write_text("{}")
    with pytest.raises(HwfitError, match="holds a searched subnet"):
        export_bundle(bundle, folder, other, format)
    assert (mine / "thesis.txt").read_text() == "words"
    assert load_bundle(other).subnet == bundle.subnet


@pytest.mark.parametrize("format", FORMATS)
def test_beside_the_bundle_itself(tmp_path: Path, format: str) -> None:
    """One file more beside the weights; never a config or weights in their place."""
    bundle = searched(("w8a8",))
    folder = write_searched(bundle, tmp_path / "searched")
    weights = (folder / "model.safetensors").read_bytes()
    if format not in ("onnx", "gguf"):
        with pytest.raises(HwfitError, match="holds the bundle itself"):
            export_bundle(bundle, folder, folder, format)
    else:
        assert export_bundle(bundle, folder, folder, format).path.is_file()
        assert not (folder / "export.json").exists()
    assert (folder / "model.safetensors").read_bytes() == weights
    assert load_bundle(folder).subnet == bundle.subnet
    assert [f for f in folder.iterdir() if f.name.startswith(".")] == []


def test_unknown_formats_name_the_nearest(tmp_path: Path) -> None:
    bundle = searched(("w8a8",))
    with pytest.raises(HwfitError, match=r"--format 'ggml'.*did you mean gguf"):
        export_bundle(bundle, tmp_path, tmp_path / "out", "ggml")


@pytest.mark.parametrize("format", FORMATS)
def test_no_tokenizer(tmp_path: Path, format: str) -> None:
    with pytest.raises(HwfitError, match="tokenizer"):
        export_bundle(searched(("w8a8",)), tmp_path, tmp_path / "out", format)
    assert list(tmp_path.iterdir()) == []


def test_precisions_that_are_served_need_no_nearest(tmp_path: Path) -> None:
    bundle = searched(SERVED)
    rows = tuple((row[0],) * 3 + (row[3],) + (row[4],) * 2 + (row[6],) for row in bundle.subnet.precision)
    subnet = dataclasses.replace(bundle.subnet, precision=rows)
    from hwfit.deploy.compressed_schemes import nearest_precisions, scheme_problems

    assert scheme_problems(Bundle(subnet, bundle.config, bundle.tensors)) == []
    assert nearest_precisions(Bundle(subnet, bundle.config, bundle.tensors)) == {}
