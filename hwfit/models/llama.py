"""Llama-family models on disk: opened by name, checked once, read as a config, a shape, weights and a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from hwfit.errors import HwfitError, nearest, raise_all
from hwfit.files import parse_json
from hwfit.rotary import Rotary, rotary_problems
from hwfit.subnet import ModelShape

_NEEDED = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size")
_FIXED = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu", "partial_rotary_factor": 1.0}
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def open_model(name: str | Path, progress: bool = True) -> Path:
    """The checked directory of a model: a known name (fetched), a local directory, or a hub id `owner/name`.

    Raises `HwfitError` listing everything that is wrong with it.
    """
    from hwfit.models.fetch import MODELS, fetch  # fetch builds on this module

    if str(name) in MODELS:
        return fetch(str(name), progress=progress)
    path = Path(name)
    if not path.is_dir():
        if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
            raise HwfitError(
                f"model '{name}' is neither a known name, a directory, nor a hub id owner/name; "
                f"known names {nearest(str(name), MODELS)}"
            )
        path = _from_hub(str(name))
    check_model(path)
    return path


def check_config(path: Path) -> None:
    """Raises `HwfitError` unless the file says the shapes of a Llama-family model; enough to plan and to predict."""
    try:
        config = parse_json(path.read_text())
        problems = _shape_problems(config)
    except (OSError, ValueError) as error:
        raise HwfitError(f"--config {path} cannot be read ({error}); give the config.json of a Llama model") from error
    raise_all([f"--config {path}: {problem}" for problem in problems])


def check_model(directory: Path) -> None:
    """Raises `HwfitError` listing everything hwfit cannot use: architecture, options, tokenizer, weight files."""
    raise_all([f"{directory}: {problem}" for problem in _problems(directory)])


def load_config(directory: Path) -> dict[str, Any]:
    """`config.json` (a folder's, or that file itself) as a dict; `head_dim` and `num_key_value_heads` are always
    filled in."""
    path = directory / "config.json" if directory.is_dir() else directory
    try:
        config = parse_json(path.read_text())
        shape = ModelShape.from_config(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HwfitError(f"{path}: not the config of a Llama-family model ({type(error).__name__}: {error})") from error
    return config | {"head_dim": shape.head_size, "num_key_value_heads": shape.kv_heads}


def load_shape(directory: Path) -> ModelShape:
    return ModelShape.from_config(load_config(directory))


def load_weights(directory: Path) -> dict[str, Tensor]:
    """All weights as f32 under their Hugging Face names; a tied `lm_head.weight` is a copy of the embedding."""
    weights = {name: tensor.float() for name, tensor in _tensors(directory)}
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"].clone())
    return weights


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Raises `HwfitError` for a tokenizer that is missing or damaged."""
    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers and tokenizers raise many types, also plain Exception
        told = " ".join(str(error).split())[:200]
        raise HwfitError(
            f"{directory}: no tokenizer that can be read ({type(error).__name__}: {told}); copy the tokenizer files of "
            "the original model there"
        ) from error


def torch_model(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LlamaForCausalLM:
    """A plain `LlamaForCausalLM` (eval, sdpa, untied) that shares memory with `weights`."""
    drop = ("architectures", "model_type", "sliding_window", "rope_theta", "rope_scaling", "dtype")
    options = {key: value for key, value in config.items() if key not in drop}
    options["rope_parameters"] = Rotary.of(config).to_config()
    shape = ModelShape.from_config(config)
    options |= {"head_dim": shape.head_size, "hidden_size": shape.heads, "tie_word_embeddings": False}
    options["attn_implementation"] = "sdpa"
    llama = LlamaConfig(**options)
    llama.hidden_size = shape.hidden  # set afterwards, for the check at construction wants a multiple of the heads
    with torch.device("meta"):
        model = LlamaForCausalLM(llama)
    model.load_state_dict(dict(weights), strict=True, assign=True)
    model.model.rotary_emb = LlamaRotaryEmbedding(llama)  # a buffer, so the state dict does not bring it
    return model.eval()


def tensor_shapes(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """Hugging Face name -> shape of every weight of an untied model."""
    h, q, kv, m = shape.hidden, shape.heads * shape.head_size, shape.kv_heads * shape.head_size, shape.mlp
    block = {
        "input_layernorm": (h,),
        "self_attn.q_proj": (q, h),
        "self_attn.k_proj": (kv, h),
        "self_attn.v_proj": (kv, h),
        "self_attn.o_proj": (h, q),
        "post_attention_layernorm": (h,),
        "mlp.gate_proj": (m, h),
        "mlp.up_proj": (m, h),
        "mlp.down_proj": (h, m),
    }
    return {
        "model.embed_tokens.weight": (shape.vocab, h),
        **{f"model.layers.{i}.{name}.weight": size for i in range(shape.blocks) for name, size in block.items()},
        "model.norm.weight": (h,),
        "lm_head.weight": (shape.vocab, h),
    }


def _tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            yield from ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118 (not a mapping)


def _problems(directory: Path) -> list[str]:
    try:
        config = parse_json((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        return [f"config.json cannot be read ({error}); give the directory of a Hugging Face Llama model"]
    problems = _shape_problems(config)
    if not isinstance(config, dict):
        return problems
    problems += [
        f"config.json: {key}={config[key]} is not supported; allowed: {value}"
        for key, value in _FIXED.items()
        if config.get(key, value) != value
    ]
    problems += rotary_problems(config)
    if config.get("quantization_config"):
        problems.append("config.json: already quantised weights are not supported; give the full-precision model")
    if not any((directory / name).exists() for name in _TOKENIZERS):
        problems.append(f"no tokenizer; put one of {', '.join(_TOKENIZERS)} beside config.json")
    if not any(directory.glob("*.safetensors")):
        problems.append("no *.safetensors file; convert the weights with save_pretrained(…, safe_serialization=True)")
    return problems or _weight_problems(directory, ModelShape.from_config(config))


def _shape_problems(config: Mapping[str, Any]) -> list[str]:
    """What keeps a config from saying the shapes of a Llama-family model."""
    if not isinstance(config, Mapping):
        return [f"config.json: must be an object, not {config!r:.60}"]
    problems = []
    architectures = config.get("architectures") or [config.get("model_type", "none")]
    if not isinstance(architectures, list):
        return [f"config.json: architectures={architectures!r:.60} must be a list"]
    if "LlamaForCausalLM" not in architectures and architectures != ["llama"]:
        problems.append(f"architecture {architectures[0]} is not supported; allowed: LlamaForCausalLM")
    missing = [f"config.json: {key} is missing" for key in _NEEDED if not config.get(key)]
    if not missing:
        try:
            ModelShape.from_config(config)
        except (ValueError, TypeError) as error:
            problems.append(f"config.json: {error}")
    return problems + missing


def _weight_problems(directory: Path, shape: ModelShape) -> list[str]:
    """Missing, foreign and misshapen tensors, from the file headers alone."""
    found: dict[str, tuple[int, ...]] = {}
    problems = []
    for path in sorted(directory.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                found |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            problems.append(f"{path.name} is broken ({error}); fetch it again")
    if shape.blocks > len(found):  # not even one tensor a block: the names of absurdly many would fill the memory
        return [*problems, f"config.json: num_hidden_layers={shape.blocks}, but the weights hold {len(found)} tensors"]
    expected = tensor_shapes(shape)
    missing = [name for name in expected if name not in found and name != "lm_head.weight"]
    if missing:
        problems.append(f"weights lack {len(missing)} tensors, the first is {missing[0]}")
    problems += [
        f"tensor {name} is {found[name]}, but config.json says {size}"
        for name, size in expected.items()
        if found.get(name, size) != size
    ]
    foreign = sorted(set(found) - set(expected))
    return problems + ([f"weights hold {len(foreign)} unknown tensors, the first is {foreign[0]}"] if foreign else [])


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "tokenizer.model"]))
    except Exception as error:  # the hub client raises many unrelated types
        raise HwfitError(
            f"model '{name}' cannot be fetched from the hub ({type(error).__name__}); it needs network access to the "
            "hub and a public name, or pass a local directory or the known name smollm2-135m"
        ) from error
