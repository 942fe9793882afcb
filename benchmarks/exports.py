"""What other tools compute with a subnet's exports: logits of SmolLM2-135M, cut and in mixed precision, by format.

`--llama-cpp PYTHON` also asks llama.cpp, through an interpreter that has the package llama-cpp-python.
"""

from __future__ import annotations

import json
import random
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import parser, publish
from hwfit.deploy.bundle import Bundle, quantise_bundle, rounded_weights, weight_specs
from hwfit.deploy.exporters import export_bundle
from hwfit.deploy.regrid import even_width, pad_mlp
from hwfit.deploy.runtime import OnnxModel
from hwfit.kernels.quantise import fake_quantise_activations
from hwfit.models.llama import load_config, load_shape, load_tokenizer, load_weights, open_model, torch_model
from hwfit.models.text import heldout_texts, pack_tokens
from hwfit.precision import Precision
from hwfit.subnet import LINEARS, ModelShape, Subnet

Reader = Callable[[Path, torch.Tensor], np.ndarray]
Rounding = Callable[[torch.Tensor, Precision], torch.Tensor]
TOKENS = 96
_LLAMA_CPP = """
import json, sys
import numpy as np
import llama_cpp.llama_cpp as low
default = low.llama_model_default_params
def plain():  # kernels of the base set: the AMX ones crash on some virtual machines
    params = default()
    params.use_extra_bufts = False
    return params
low.llama_model_default_params = plain
from llama_cpp import Llama
model = Llama(sys.argv[1], n_ctx=512, n_batch=512, logits_all=True, verbose=False)
model.eval(json.loads(sys.argv[2]))
np.save(sys.argv[3], np.array(model.scores[: model.n_tokens]))
"""


def cut(shape: ModelShape, seed: int = 0) -> Subnet:
    """28 blocks, MLP widths and precisions drawn at random; q, k, v alike in half of the blocks."""
    rng = random.Random(seed)
    kept = tuple(b for b in range(shape.blocks) if b not in (12, 17))
    choices = [Precision.parse(p) for p in ("w8a8", "w4a8g32", "w8a8g64")]
    rows = []
    for _ in kept:
        row = [rng.choice(choices) for _ in LINEARS]
        rows.append(tuple([row[0]] * 3 + row[3:4] + [row[4]] * 2 + row[6:] if rng.random() < 0.5 else row))
    mlp = tuple(rng.choice((1536, 1408, 1280)) for _ in kept)
    whole = Subnet.whole(shape, "w8a8g32", "w8a8g32")
    return replace(whole, blocks=kept, mlp=mlp, precision=tuple(rows), lm_head=Precision.parse("w8a8"))


def transformers(path: Path, ids: torch.Tensor) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    folder, options = (path.parent, {"gguf_file": path.name}) if path.is_file() else (path, {})
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    with torch.no_grad():
        return model(ids[None]).logits[0].float().numpy()


def onnx_runtime(path: Path, ids: torch.Tensor) -> np.ndarray:
    return OnnxModel(path).all_logits(ids[None].numpy())[0]


def compressed_tensors(path: Path, ids: torch.Tensor) -> np.ndarray:
    """With that package's own reader of every module; transformers does not load zero points."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig
    from safetensors.torch import load_file

    config = json.loads((path / "config.json").read_text())
    told = QuantizationConfig.model_validate(config.pop("quantization_config"))
    tensors = load_file(path / "model.safetensors")
    for scheme in told.config_groups.values():
        assert not isinstance(scheme, list)
        for name in scheme.targets:
            parts = {key: tensors.pop(key) for key in [k for k in tensors if k.startswith(f"{name}.weight")]}
            state: Any = {key.rpartition(".")[2]: t for key, t in parts.items()}
            reader = BaseCompressor.get_value_from_registry(str(scheme.format or told.format))
            tensors[f"{name}.weight"] = reader.decompress(state, scheme)["weight"]  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        return torch_model(config, {n: t.float() for n, t in tensors.items()})(ids[None]).logits[0].numpy()


def llama_cpp(python: str) -> Reader:
    def read(path: Path, ids: torch.Tensor) -> np.ndarray:
        out = path.parent / "logits.npy"
        done = [python, "-c", _LLAMA_CPP, str(path), json.dumps(ids.tolist()), str(out)]
        subprocess.run(done, check=True, env={"PATH": "/usr/bin:/bin"})
        return np.load(out)

    return read


def compare(got: np.ndarray, want: np.ndarray) -> dict[str, float]:
    """Relative norm of the difference, KL in nats a token, and share of tokens with the same likeliest next one."""
    p, q = (torch.from_numpy(x).double().log_softmax(-1) for x in (want, got))
    return {
        "relative_error": float(np.linalg.norm(got - want) / np.linalg.norm(want)),
        "KL": float((p.exp() * (p - q)).sum(-1).mean()),
        "same_next_token": float((got.argmax(-1) == want.argmax(-1)).mean()),
    }


def a_token(x: torch.Tensor, p: Precision) -> torch.Tensor:
    """int8 with one scale a token for w8a8, as vLLM rounds; other inputs as they are."""
    if p.name != "w8a8":
        return x
    scale = x.abs().amax(-1, keepdim=True) / 127.5
    return (x / scale).clamp(-128, 127).round() * scale


def twin(bundle: Bundle, ids: torch.Tensor, rounding: Rounding | None) -> np.ndarray:
    """Logits `[tokens, vocab]` of the fake-quantised subnet in torch, inputs of its linears rounded or not."""
    even = pad_mlp(bundle, even_width(bundle))
    model = torch_model(even.config, rounded_weights(even))
    specs = weight_specs(bundle.subnet)
    for name, module in model.named_modules():
        if rounding and isinstance(module, torch.nn.Linear):
            p = specs[f"{name}.weight"][2]
            module.register_forward_pre_hook(lambda _, args, p=p: (rounding(args[0], p),))
    with torch.no_grad():
        return model(ids[None]).logits[0].numpy()


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--llama-cpp", help="python with llama-cpp-python")
    args = options.parse_args()
    model = open_model("smollm2-135m")
    ids = pack_tokens(heldout_texts(), load_tokenizer(model), TOKENS, TOKENS)[0]
    bundle = quantise_bundle(load_weights(model), load_shape(model), load_config(model), cut(load_shape(model)))
    readers: list[tuple[str, str, Reader, Rounding | None]] = [
        ("onnx", "ONNX Runtime", onnx_runtime, fake_quantise_activations),
        ("hf", "transformers", transformers, None),
        ("compressed-tensors", "its own reader", compressed_tensors, None),
        ("compressed-tensors-symmetric", "transformers", transformers, a_token),
        ("gguf", "transformers", transformers, None),
    ]
    if args.llama_cpp:
        readers.append(("gguf", "llama.cpp", llama_cpp(args.llama_cpp), None))
    plain = twin(bundle, ids, None)
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, (format, tool, read, rounding) in enumerate(readers):
            # transformers reads a GGUF of one MLP width only
            written = pad_mlp(bundle, even_width(bundle)) if (format, tool) == ("gguf", "transformers") else bundle
            start = time.perf_counter()
            exported = export_bundle(written, model, Path(folder) / f"{format}{i}", format, take_nearest=True)
            seconds = time.perf_counter() - start
            want, name = twin(bundle, ids, rounding) if rounding else plain, f"{format}.{tool}"
            figures |= {f"{name}.MB": exported.bytes / 1e6, f"{name}.seconds": seconds}
            figures |= {f"{name}.{key}": value for key, value in compare(read(exported.path, ids), want).items()}
            if rounding:  # what rounding inputs costs at all, for comparison
                figures[f"{name}.KL_of_rounding"] = compare(want, plain)["KL"]
    publish("exports", figures, args.json)


if __name__ == "__main__":
    main()
