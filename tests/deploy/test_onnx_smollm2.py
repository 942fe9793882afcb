"""The real SmolLM2-135M: ONNX against transformers, whole in fp32 and as a sliced, mixed-precision subnet."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from deploy_llama import hook_inputs, llama_with, random_precisions

from hwfit.deploy.bundle import dense_weights, quantise_bundle, weight_specs
from hwfit.deploy.onnx_graph import write_onnx
from hwfit.deploy.runtime import OnnxModel
from hwfit.deploy.slice import subnet_config
from hwfit.kernels.quantise import fake_quantise_activations
from hwfit.models.llama import load_config, load_shape, load_tokenizer, load_weights, torch_model
from hwfit.subnet import Subnet

TEXT = (
    "The harbour was quiet in the early morning. Fishing boats lay side by side along the quay, their nets drying in "
    "the sun, and a smell of salt and tar hung over the water. An old man sat mending a sail, and when the children "
    "came running down the steps he told them, as he did every summer, the story of the lighthouse that had moved."
)


@pytest.mark.slow
def test_fp32_logits_and_16_decode_steps_are_within_1e_4(smollm2: Path, tmp_path: Path) -> None:
    config, shape, weights = load_config(smollm2), load_shape(smollm2), load_weights(smollm2)
    ids = torch.tensor(load_tokenizer(smollm2)(TEXT)["input_ids"])[None, :64]
    with torch.no_grad():
        expected = torch_model(config, weights)(ids).logits[0].numpy()
    path = write_onnx(quantise_bundle(weights, shape, config, Subnet.whole(shape)), tmp_path / "m.onnx")
    model, scale = OnnxModel(path), np.abs(expected).max()
    errors = [np.abs(model.prefill(ids[0, :48].numpy()) - expected[47]).max()]
    errors += [np.abs(model.decode(int(ids[0, i])) - expected[i]).max() for i in range(48, 64)]
    errors += [np.abs(model.all_logits(ids.numpy())[0] - expected).max()]
    first, decoded, scored = errors[0] / scale, max(errors[1:17]) / scale, errors[17] / scale
    print(f"relative error: prefill {first:.1e}, decode {decoded:.1e}, all_logits {scored:.1e}")
    assert max(errors) < 1e-4 * scale


@pytest.mark.slow
def test_a_mixed_precision_subnet_is_within_the_cost_of_rounding_its_activations(smollm2: Path, tmp_path: Path) -> None:
    """Each linear agrees to 2e-6 (tests/kernels), but some of the 10^7 roundings a call flip to the next step.

    From there on a sequence is another draw of the same rounding noise, so what can be asked of a whole model is an
    error below the cost of that noise, and the same next-token distribution for practical purposes.
    """
    config, shape, weights = load_config(smollm2), load_shape(smollm2), load_weights(smollm2)
    ids = torch.tensor(load_tokenizer(smollm2)(TEXT)["input_ids"])[None, :64]
    whole = Subnet.whole(shape)
    kept = tuple(b for b in range(shape.blocks) if b not in (10, 20))
    subnet = dataclasses.replace(
        whole, hidden=512, mlp=(1280,) * 28, blocks=kept, precision=whole.precision[:28], embed=whole.embed
    )
    subnet = random_precisions(subnet, 0, ("w32", "w8a8", "w8a8g32", "w4a8g32"))
    bundle = quantise_bundle(weights, shape, config, subnet)
    model = OnnxModel(write_onnx(bundle, tmp_path / "m.onnx"))
    dense, specs = dense_weights(bundle), weight_specs(subnet)
    twin, plain = (llama_with(dense, subnet_config(config, subnet)) for _ in range(2))
    hook_inputs(twin, lambda name, x: fake_quantise_activations(x, specs[f"{name}.weight"][2]))
    with torch.no_grad():
        expected, without = (m(ids).logits[0].numpy() for m in (twin, plain))
    got = model.all_logits(ids.numpy())[0]
    error, cost = (float(np.linalg.norm(x - expected) / np.linalg.norm(expected)) for x in (got, without))
    p, q = (torch.from_numpy(x).log_softmax(-1) for x in (expected, got))
    divergence = float((p.exp() * (p - q)).sum(-1).mean())
    print(f"error {error:.1e}, cost of rounding activations {cost:.1e}, KL {divergence:.1e} nats a token")
    assert error < cost
    assert divergence < 0.05
