"""How far ONNX logits are from transformers (fp32), and a mixed-precision subnet's from its fake-quantised twin."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import parser, publish
from hwfit.deploy.bundle import Bundle, dense_weights, quantise_bundle
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.runtime import OnnxModel
from hwfit.kernels.quantise import fake_quantise_activations
from hwfit.models.llama import load_config, load_shape, load_tokenizer, load_weights, open_model, torch_model
from hwfit.models.text import heldout_texts, pack_tokens
from hwfit.search.forward import Attention, plain_forward, weight_name
from hwfit.space import Space
from hwfit.subnet import LINEARS, Subnet

STEPS = 16


def relative(got: np.ndarray, want: np.ndarray) -> float:
    """max |difference| over max |reference|."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def generated(model: OnnxModel, ids: np.ndarray) -> np.ndarray:
    """Logits `[STEPS + 1, vocab]`: after a prefill of all but the last `STEPS` ids, then after each of those."""
    rows = [model.prefill(ids[:-STEPS])]
    rows += [model.decode(int(token)) for token in ids[-STEPS:]]
    return np.stack(rows)


def fake_quantised_logits(bundle: Bundle, ids: torch.Tensor, double: bool = False) -> np.ndarray:
    """The subnet in torch: dequantised weights, activations rounded as the kernels do; `[seq, vocab]`."""
    dtype = torch.float64 if double else torch.float32
    weights: Mapping[str, torch.Tensor] = {name: w.to(dtype) for name, w in dense_weights(bundle).items()}
    s = bundle.subnet

    def project(block: int, names: tuple[str, ...], x: torch.Tensor) -> list[torch.Tensor]:
        precisions = [s.precision[block][LINEARS.index(name)] for name in names]
        rounded = [fake_quantise_activations(x.float(), p).to(dtype) for p in precisions]
        return [
            torch.nn.functional.linear(r, weights[f"{weight_name(block, name)}.weight"])
            for name, r in zip(names, rounded, strict=True)
        ]

    attention = Attention.of(s.heads, s.kv_heads, s.head_size, bundle.config)
    eps = float(bundle.config["rms_norm_eps"])
    with torch.no_grad():
        x = plain_forward(ids[None], weights, attention, len(s.blocks), eps, project)
        head = fake_quantise_activations(x.float(), s.lm_head).to(dtype)
        return torch.nn.functional.linear(head, weights["lm_head.weight"])[0].float().numpy()


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--model", default="smollm2-135m")
    options = arguments.parse_args()
    path = open_model(options.model)
    config, shape, weights = load_config(path), load_shape(path), load_weights(path)
    ids = pack_tokens(heldout_texts(), load_tokenizer(path), 128, 128)[0]
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = quantise_bundle(weights, shape, config, Subnet.whole(shape))
        model = OnnxModel(write_onnx(whole, Path(folder) / "whole.onnx"), threads=2)
        with torch.no_grad():
            want = torch_model(config, weights)(ids[None]).logits[0].numpy()
        figures["fp32.prefill.relative_error"] = relative(model.all_logits(ids.numpy()[None])[0], want)
        figures["fp32.decode16.relative_error"] = relative(generated(model, ids.numpy()), want[-STEPS - 1 :])

        space = Space.default(shape)
        mixed = space.sample(random.Random(0))
        mixed = replace(mixed, hidden=space.hidden[1], head_size=space.head_size[0], lm_head=space.precisions[2])
        bundle = quantise_bundle(weights, shape, config, mixed)
        model = OnnxModel(write_onnx(bundle, Path(folder) / "mixed.onnx"), threads=2)
        got = model.all_logits(ids.numpy()[None])[0]
        single, double = fake_quantised_logits(bundle, ids), fake_quantised_logits(bundle, ids, double=True)
        for name, value in (("torch", single), ("float64", double)):
            figures[f"mixed.{name}.relative_error"] = relative(got, value)
            figures[f"mixed.{name}.rms_error"] = float(np.sqrt(np.mean((got - value) ** 2) / np.mean(value**2)))
        figures["mixed.float64_against_torch.rms_error"] = float(
            np.sqrt(np.mean((single - double) ** 2) / np.mean(double**2))
        )
        figures["mixed.argmax_agreement"] = float(np.mean(got.argmax(-1) == single.argmax(-1)))
    publish("logits", figures, options.json)


if __name__ == "__main__":
    main()
