"""Runtime: a deployed ONNX model with its key/value cache. Generates, scores sequences, and times single calls."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from hwfit.errors import HwfitError
from hwfit.kernels.ort_cpu import Cache
from hwfit.kernels.ort_session import session
from hwfit.kernels.pack import Array
from hwfit.subnet import Subnet


class OnnxModel:
    """A graph of `write_onnx` on `threads` threads. One sequence at a time, except in the timing methods.

    Raises `HwfitError` if `path` is no such graph.
    """

    def __init__(self, path: Path, threads: int = 1):
        if not Path(path).is_file():
            raise HwfitError(f"{path}: no such ONNX file; write one with `hwfit export`")
        try:
            self.session = session(path, threads)
            metadata = self.session.get_modelmeta().custom_metadata_map
            self.subnet = Subnet.from_json(metadata["hwfit.subnet"], source=str(path))
            self.max_context = int(metadata["hwfit.max_context"])
        except KeyError as error:
            raise HwfitError(
                f"{path}: not written by hwfit (no metadata {error}); export it with `hwfit export`"
            ) from error
        except HwfitError:
            raise
        except Exception as error:  # onnxruntime raises many types of its own
            raise HwfitError(f"{path}: ONNX Runtime cannot load it ({' '.join(str(error).split())[:300]})") from error
        self.path, self.threads = Path(path), threads
        self.length = 0  # tokens in the cache
        self._caches: dict[int, list[ort.OrtValue]] = {}
        self._calls: dict[tuple[int, int], _Call] = {}

    def reset(self) -> None:
        """Forget the sequence so far."""
        self.length = 0

    def prefill(self, ids: Sequence[int] | Array) -> Array:
        """Start a new sequence with `ids[seq]`; logits `[vocab]` after its last token."""
        self.reset()
        self._room(len(ids))
        call = _Call(self, 1, len(ids), 1, self._cache(1))
        logits = call.run(np.asarray(ids, np.int64)[None], past=0)
        self.length = len(ids)
        return logits[0, 0]

    def decode(self, token: int) -> Array:
        """Append one token; logits `[vocab]` after it."""
        self._room(self.length + 1)
        logits = self._prebound(1, 1).run(np.array([[token]], np.int64), past=self.length)
        self.length += 1
        return logits[0, 0].copy()

    def all_logits(self, ids: Array, lengths: Sequence[int] | None = None, start: int = 0) -> Array:
        """Logits fp32 `[batch, seq - start, vocab]` of `ids[batch, seq]` at positions `start` and later.

        Rows run one at a time, so a row's result depends on no other (per-tensor activation scales would make it);
        with `lengths` each is cut to its own and the logits of its padding are 0. Leaves `decode`'s sequence alone.
        """
        ids = np.asarray(ids, np.int64)
        batch, seq = ids.shape
        self._room(seq)
        out = np.zeros((batch, seq - start, self.subnet.vocab), np.float32)
        # one call a sequence: each block writes its keys and values before it reads them, so all share one pair
        scratch = [_empty_cache(self.subnet, 1, seq) for _ in ("key", "value")] * len(self.subnet.blocks)
        for row in range(batch):
            length = seq if lengths is None else lengths[row]
            if length > start:
                call = _Call(self, 1, length, length - start, scratch, out[row : row + 1, : length - start])
                call.run(ids[row : row + 1, :length], past=0)
        return out

    def time_prefill(self, tokens: int, batch: int = 1) -> float:
        """Seconds of one forward call over `batch` prompts of `tokens` tokens, inputs bound beforehand."""
        self._room(tokens)
        return self._prebound(batch, tokens).time(past=0)

    def time_decode(self, context: int, batch: int = 1) -> float:
        """Seconds of one forward call of one new token a sequence, attending to `context` tokens including itself."""
        self._room(context)
        return self._prebound(batch, 1).time(past=context - 1)

    def _prebound(self, batch: int, tokens: int) -> _Call:
        key = (batch, tokens)
        if key not in self._calls:
            self._calls[key] = _Call(self, batch, tokens, 1, self._cache(batch))
        return self._calls[key]

    def _cache(self, batch: int) -> list[ort.OrtValue]:
        """Keys and values of every block, `[batch, kv_heads, max_context, head_size]` each."""
        if batch not in self._caches:
            count = 2 * len(self.subnet.blocks)
            self._caches[batch] = [_empty_cache(self.subnet, batch, self.max_context) for _ in range(count)]
        return self._caches[batch]

    def _room(self, tokens: int) -> None:
        if not 0 < tokens <= self.max_context:
            raise HwfitError(
                f"{self.path}: {tokens} tokens do not fit; allowed: 1 to its max_context of {self.max_context} "
                "(export with a larger max_context)"
            )


class _Call:
    """One forward call of fixed shape with everything bound: `tokens` new tokens, logits of the last `positions`."""

    def __init__(
        self,
        model: OnnxModel,
        batch: int,
        tokens: int,
        positions: int,
        caches: list[ort.OrtValue],
        logits: Array | None = None,
    ):
        self._session, self._tokens = model.session, tokens
        vocab = model.subnet.vocab
        self._logits = np.zeros((batch, positions, vocab), np.float32) if logits is None else logits
        ids = np.random.default_rng(0).integers(0, vocab, (batch, tokens))
        self._inputs = {
            "input_ids": ids,
            "seqlens_k": np.full(batch, tokens - 1, np.int32),
            "total_length": np.array(tokens, np.int32),
            "logits_from": np.array([-positions]),
        }
        self._binding = self._session.io_binding()
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(a) for name, a in self._inputs.items()}
        for name, bound in self._values.items():
            self._binding.bind_ortvalue_input(name, bound)
        self._binding.bind_output("logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data)
        for i in range(len(model.subnet.blocks)):
            cache, (key, content) = Cache.of(i), caches[2 * i : 2 * i + 2]
            for past, present, bound in (
                (cache.past_key, cache.present_key, key),
                (cache.past_value, cache.present_value, content),
            ):
                self._binding.bind_ortvalue_input(past, bound)
                self._binding.bind_ortvalue_output(present, bound)

    def run(self, ids: Array, past: int) -> Array:
        """Logits `[batch, positions, vocab]` in a buffer that the next run of this call overwrites."""
        self._values["input_ids"].update_inplace(ids)
        self._at(past)
        self._session.run_with_iobinding(self._binding)
        return self._logits

    def time(self, past: int) -> float:
        self._at(past)
        start = time.perf_counter()
        self._session.run_with_iobinding(self._binding)
        return time.perf_counter() - start

    def _at(self, past: int) -> None:
        """Place the new tokens after `past` cached ones."""
        batch, total = self._logits.shape[0], past + self._tokens
        self._values["seqlens_k"].update_inplace(np.full(batch, total - 1, np.int32))
        self._values["total_length"].update_inplace(np.array(total, np.int32))


def _empty_cache(subnet: Subnet, batch: int, length: int) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(np.zeros((batch, subnet.kv_heads, length, subnet.head_size), np.float32))
