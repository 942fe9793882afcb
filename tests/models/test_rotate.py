from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_folder import tiny_llama

from hwfit.models import rotate
from hwfit.models.llama import torch_model

TOKENS = torch.randint(3, 260, (6, 40), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def model():
    return tiny_llama()


def logits(config, weights) -> torch.Tensor:
    with torch.inference_mode():
        return torch_model(config, weights)(TOKENS).logits


def test_folding_keeps_the_function_and_the_input(model) -> None:
    config, weights = model.config.to_dict(), model.state_dict()
    before = {name: weight.clone() for name, weight in weights.items()}
    folded = rotate.fold_norms(weights)
    assert all(torch.equal(weights[name], before[name]) for name in weights)
    assert all((w == 1).all() for name, w in folded.items() if "norm" in name)
    torch.testing.assert_close(logits(config, folded), logits(config, weights), rtol=0, atol=1e-4)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), width=st.sampled_from([7, 16, 32, 48, 64]))
def test_any_rotation_keeps_the_function(seed: int, width: int) -> None:
    model = tiny_llama()
    config, folded = model.config.to_dict(), rotate.fold_norms(model.state_dict())
    random = torch.randn(48, 48, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rotated = rotate.rotate(folded, rotate.spread(torch.linalg.qr(random).Q, width))
    torch.testing.assert_close(logits(config, rotated), logits(config, folded), rtol=0, atol=1e-4)
    assert not torch.allclose(rotated["model.embed_tokens.weight"], folded["model.embed_tokens.weight"], atol=1e-2)


def test_basis_against_hidden_states_in_numpy(model) -> None:
    """One token's embedding is 10,000 times the others': it must count like any other token."""
    config, folded = model.config.to_dict(), rotate.fold_norms(model.state_dict())
    folded["model.embed_tokens.weight"][TOKENS[0, 0]] *= 1e4
    basis = rotate.principal_basis(config, folded, TOKENS).numpy()
    last = {}
    reference = torch_model(config, folded)
    reference.model.norm.register_forward_pre_hook(lambda _, args: last.update(state=args[0]))
    with torch.inference_mode():
        hidden = reference(TOKENS, output_hidden_states=True).hidden_states[:-1]  # the last one is after the norm
    states = np.concatenate([h.double().reshape(-1, 48).numpy() for h in (*hidden, last["state"])])
    states /= np.sqrt((states**2).mean(1, keepdims=True))
    variances = ((states @ basis) ** 2).sum(0)
    np.testing.assert_allclose(basis.T @ basis, np.eye(48), atol=1e-10)
    np.testing.assert_allclose(variances, np.linalg.svd(states, compute_uv=False) ** 2, rtol=1e-4)
    assert (basis[np.abs(basis).argmax(0), range(48)] > 0).all()


def test_spread_keeps_prefixes_and_evens_channels() -> None:
    basis = torch.linalg.qr(torch.randn(200, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    spread = rotate.spread(basis, 64)
    for prefix in (64, 128, 192, 200):
        old, new = basis[:, :prefix], spread[:, :prefix]
        torch.testing.assert_close(old @ old.T, new @ new.T)
    state = basis[:, 3] * 10  # a massive activation in one component
    assert (state @ basis).abs().max() > 9.99
    assert (state @ spread).abs().max() < 10 * (2 / 64) ** 0.5 + 1e-9
