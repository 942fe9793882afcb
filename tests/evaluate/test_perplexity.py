from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_model import VOCAB, Uniform, random_llama

from hwfit.errors import HwfitError
from hwfit.evaluate.perplexity import perplexity
from hwfit.evaluate.scorer import TorchScorer, token_log_probs

MODEL = random_llama()


def tokens(rows: int, seq: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (rows, seq), generator=torch.Generator().manual_seed(seed))


def log_probs(ids: torch.Tensor) -> np.ndarray:
    """[rows, seq - 1] in float64, from the whole logits of all rows at once."""
    with torch.inference_mode():
        logits = MODEL(ids).logits.double().numpy()[:, :-1]
    logits -= logits.max(-1, keepdims=True)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return np.log(np.take_along_axis(probabilities, ids.numpy()[:, 1:, None], -1)[..., 0])


def test_against_float64() -> None:
    ids = tokens(7, 33)
    result = perplexity(TorchScorer(MODEL), ids, progress=False)
    assert result.value == pytest.approx(np.exp(-log_probs(ids).mean()), rel=1e-5)
    assert result.tokens == 7 * 32
    assert result.low < result.value < result.high


def test_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    result = perplexity(Uniform(), tokens(3, 9), progress=False)
    assert (result.low, result.value, result.high) == pytest.approx((VOCAB,) * 3)


def test_interval_is_reproducible_and_narrows_with_rows() -> None:
    few, many = tokens(8, 17), tokens(128, 17)
    scorer = TorchScorer(MODEL)
    assert perplexity(scorer, few, progress=False) == perplexity(scorer, few, progress=False)
    wide, narrow = (perplexity(scorer, ids, progress=False) for ids in (few, many))
    assert np.log(narrow.high / narrow.low) < np.log(wide.high / wide.low) / 2


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """A scorer whose per-row losses are known: 95 % intervals of 40 rows should cover e about 95 % of the time."""
    rng = np.random.default_rng(0)

    class Noisy:
        def all_logits(self, ids: np.ndarray, *, start: int = 0) -> np.ndarray:
            loss = 1 + 0.5 * rng.standard_normal()  # of the row's one prediction, token 0 of two
            share = np.exp(-abs(loss))
            return np.log(np.array([[[share, 1 - share]]])).astype(np.float32)

    truth = np.exp(np.abs(1 + 0.5 * np.random.default_rng(1).standard_normal(100_000)).mean())
    ids = torch.zeros(40, 2, dtype=torch.long)
    intervals = [perplexity(Noisy(), ids, progress=False) for _ in range(100)]
    assert 85 <= sum(i.low <= truth <= i.high for i in intervals) <= 100


@settings(max_examples=20, deadline=None)
@given(seq=st.integers(2, 30), data=st.data())
def test_last_tokens_only(seq: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, seq - 1))
    ids = tokens(1, seq, seed=seq)
    values, greedy = token_log_probs(TorchScorer(MODEL), ids[0].tolist(), count)
    np.testing.assert_allclose(values, log_probs(ids)[0, -count:], atol=1e-4)
    with torch.inference_mode():
        best = MODEL(ids).logits[0, :-1].argmax(-1)
    assert greedy.tolist() == (best == ids[0, 1:])[-count:].tolist()


def test_huge_logits_do_not_overflow() -> None:
    class Sure:
        def all_logits(self, ids: np.ndarray, *, start: int = 0) -> np.ndarray:
            logits = np.full((1, ids.shape[1] - start, 3), -1e4, np.float32)
            logits[..., 1] = 1e4
            return logits

    values, greedy = token_log_probs(Sure(), [0, 1, 2], 2)
    assert values.tolist() == [0.0, -2e4]
    assert greedy.tolist() == [True, False]


@pytest.mark.parametrize("shape", [(0, 4), (3, 1), (5,)])
def test_needs_rows_of_two_tokens(shape: tuple[int, ...]) -> None:
    with pytest.raises(HwfitError, match="n ≥ 1 and seq ≥ 2"):
        perplexity(Uniform(), torch.zeros(shape, dtype=torch.long))
