"""A sliced model equals the original with the dropped weights zeroed."""

import dataclasses

import pytest
import torch
from deploy_llama import llama_with, mask_weights, parts, tiny_llama
from transformers import AutoConfig, AutoModelForCausalLM

from hwfit.deploy.slice import slice_energy, slice_weights, subnet_config
from hwfit.errors import HwfitError
from hwfit.subnet import Subnet

CUTS = {
    "nothing": {},
    "hidden": {"hidden": 96},
    "mlp": {"mlp": (128,) * 4},
    "kv groups": {"heads": 4, "kv_heads": 2},
    "queries of each group": {"heads": 4, "kv_heads": 4},
    "head size": {"head_size": 16},
    "head size, twice": {"head_size": 8},
    "blocks": {"blocks": (0, 2, 3), "mlp": (192,) * 3},
    "all at once": {"hidden": 64, "heads": 6, "kv_heads": 3, "head_size": 16, "blocks": (1, 3), "mlp": (96,) * 2},
}


def cut(subnet: Subnet, **changes: object) -> Subnet:
    subnet = dataclasses.replace(subnet, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(subnet, precision=subnet.precision[: len(subnet.blocks)])


@pytest.mark.parametrize("name", CUTS)
def test_sliced_equals_masked(name: str) -> None:
    model = tiny_llama()
    weights, shape, config = parts(model)
    subnet = cut(Subnet.whole(shape), **CUTS[name])
    sliced = llama_with(slice_weights(weights, shape, subnet), subnet_config(config, subnet))
    masked = llama_with(mask_weights(weights, shape, subnet), config)
    ids = torch.randint(0, shape.vocab, (2, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got, expected, whole = (m(ids).logits for m in (sliced, masked, model))
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5
    assert (name == "nothing") == bool((whole - expected).abs().max() < 1e-4)


def test_tied_weights_become_an_lm_head_of_their_own() -> None:
    weights, shape, _ = parts(tiny_llama())
    del weights["lm_head.weight"]
    out = slice_weights(weights, shape, cut(Subnet.whole(shape), hidden=64))
    assert torch.equal(out["lm_head.weight"], weights["model.embed_tokens.weight"][:, :64])


@pytest.mark.parametrize(("hidden", "kind"), [(96, "llama"), (64, "llama"), (112, "mistral")])
def test_transformers_loads_the_config_of_any_width(hidden: int, kind: str) -> None:
    model = tiny_llama()
    weights, shape, config = parts(model)
    subnet = cut(Subnet.whole(shape), hidden=hidden, heads=6 if hidden != 64 else 8, kv_heads=3 if hidden != 64 else 4)
    made = subnet_config(config, subnet)
    assert made["model_type"] == kind
    sliced = slice_weights(weights, shape, subnet)
    auto = AutoModelForCausalLM.from_config(AutoConfig.for_model(**made)).eval()
    auto.load_state_dict(sliced)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        got, expected = auto(ids).logits, llama_with(mask_weights(weights, shape, subnet), config)(ids).logits
    assert float((got - expected).abs().max() / expected.abs().max()) < 1e-5


def test_energy_follows_each_linear_s_inputs() -> None:
    _, shape, _ = parts(tiny_llama())
    subnet = cut(Subnet.whole(shape), hidden=96, heads=4, kv_heads=2, head_size=16, blocks=(1, 3), mlp=(96, 64))
    width = {"o_proj": 256, "down_proj": 192}
    energy = {
        f"model.layers.{b}.{x}": torch.arange(float(width.get(x.split(".")[1], 128))) + 1000 * b
        for b in range(4)
        for x in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
    }
    out = slice_energy(energy, shape, subnet)
    assert set(out) == {
        f"model.layers.{i}.{x}" for i in range(2) for x in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
    }
    assert out["model.layers.1.self_attn.q_proj"].tolist() == [3000.0 + i for i in range(96)]
    assert out["model.layers.1.mlp.down_proj"].tolist() == [3000.0 + i for i in range(64)]
    heads = [h * 32 + c for h in range(4) for c in range(32) if c % 2 == 0]
    assert out["model.layers.0.self_attn.o_proj"].tolist() == [1000.0 + i for i in heads]


def test_what_cannot_be_sliced_is_refused() -> None:
    weights, shape, config = parts(tiny_llama())
    whole = Subnet.whole(shape)
    with pytest.raises(HwfitError) as error:
        slice_weights(weights, shape, cut(whole, head_size=24, heads=8, kv_heads=2))
    assert len(error.value.problems) == 2
    with pytest.raises(HwfitError, match="exceeds the original's 128"):
        slice_weights(weights, shape, cut(whole, hidden=256))
    with pytest.raises(HwfitError) as error:
        slice_weights({k: v for k, v in weights.items() if "layers.2.mlp" not in k}, shape, whole)
    assert len(error.value.problems) == 3
    uneven = cut(whole, mlp=(192, 128, 192, 64))
    with pytest.raises(HwfitError, match="MLP widths differ"):
        subnet_config(config, uneven)
    assert subnet_config(config, uneven, uneven_mlp=True)["intermediate_size"] == 192
