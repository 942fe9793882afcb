"""What a Llama block computes, in float64 and written out plainly; shares no code with hwfit."""

from __future__ import annotations

import numpy as np


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """max |difference| over max |reference|."""
    assert np.isfinite(got).all()
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def rms_norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * gain


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def rotate(x: np.ndarray, positions: np.ndarray, theta: float) -> np.ndarray:
    """`x[batch, tokens, heads, size]`: pair (i, i + size / 2) turned by position * theta^(-2 i / size)."""
    size = x.shape[-1]
    out = np.empty_like(x)
    for t, position in enumerate(positions):
        for i in range(size // 2):
            angle = position * theta ** (-2 * i / size)
            a, b = x[:, t, :, i], x[:, t, :, i + size // 2]
            out[:, t, :, i] = a * np.cos(angle) - b * np.sin(angle)
            out[:, t, :, i + size // 2] = b * np.cos(angle) + a * np.sin(angle)
    return out


def attention(q: np.ndarray, keys: np.ndarray, values: np.ndarray, start: int) -> np.ndarray:
    """Causal grouped-query attention of `q[batch, tokens, heads, size]`, standing at `start` and on, to
    `keys, values [batch, context, kv heads, size]`."""
    batch, tokens, heads, size = q.shape
    shared = heads // keys.shape[2]
    out = np.empty_like(q)
    for b in range(batch):
        for h in range(heads):
            for t in range(tokens):
                seen = slice(0, start + t + 1)
                scores = keys[b, seen, h // shared] @ q[b, t, h] / np.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[b, t, h] = (weights / weights.sum()) @ values[b, seen, h // shared]
    return out


def dequantised_rows(codes: np.ndarray, scales: np.ndarray, zeros: np.ndarray | None, ids: np.ndarray) -> np.ndarray:
    """Rows of `(code - zero) * scale`, group by group."""
    group = codes.shape[1] // scales.shape[1]
    out = np.empty((len(ids), codes.shape[1]))
    for row, token in enumerate(ids):
        for column in range(codes.shape[1]):
            zero = 0.0 if zeros is None else float(zeros[token, column // group])
            out[row, column] = (float(codes[token, column]) - zero) * float(scales[token, column // group])
    return out
