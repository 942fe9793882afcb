"""Generate text with model.onnx and tokenizer.json beside this file: `python generate.py "Once upon a time"`.

Needs onnxruntime, numpy and tokenizers, and nothing of hwfit, which wrote this file together with the graph.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer


class Model:
    """The graph with its key/value cache, for one sequence at a time."""

    def __init__(self, path: Path, threads: int):
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.max_context = int(self.session.get_modelmeta().custom_metadata_map["hwfit.max_context"])
        self.length = 0
        shapes = {i.name: i.shape for i in self.session.get_inputs() if i.name.startswith("past.")}
        size = {name: (1, shape[1], self.max_context, shape[3]) for name, shape in shapes.items()}
        self.cache = {name: ort.OrtValue.ortvalue_from_numpy(np.zeros(s, np.float32)) for name, s in size.items()}

    def __call__(self, ids: list[int]) -> np.ndarray:
        """Append `ids`; logits [vocab] after the last."""
        total = self.length + len(ids)
        if total > self.max_context:
            raise SystemExit(f"{total} tokens exceed this graph's {self.max_context}")
        binding = self.session.io_binding()
        binding.bind_output("logits", "cpu")
        binding.bind_cpu_input("input_ids", np.array([ids], np.int64))
        binding.bind_cpu_input("seqlens_k", np.array([total - 1], np.int32))
        binding.bind_cpu_input("total_length", np.array(total, np.int32))
        binding.bind_cpu_input("logits_from", np.array([-1], np.int64))
        for name, value in self.cache.items():  # the new keys and values are written in place
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past.", "present.", 1), value)
        self.session.run_with_iobinding(binding)
        self.length = total
        return binding.get_outputs()[0].numpy()[0, 0]


def pick(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    """The likeliest token of `logits[vocab]`, or one drawn with probabilities softmax(logits / temperature)."""
    if temperature == 0:
        return int(logits.argmax())
    scaled = (logits - logits.max()).astype(np.float64) / temperature
    p = np.exp(scaled)
    return int(rng.choice(len(p), p=p / p.sum()))


def end_tokens(folder: Path) -> set[int]:
    path = folder / "generation_config.json"
    found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    return set(found) if isinstance(found, list) else {found} if isinstance(found, int) else set()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ids", action="store_true", help="print token ids, not text")
    args = parser.parse_args()
    folder = Path(__file__).resolve().parent
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model, rng, ends = Model(folder / "model.onnx", args.threads), np.random.default_rng(args.seed), end_tokens(folder)
    ids = tokenizer.encode(args.prompt).ids
    logits, out, start = model(ids), [], time.perf_counter()
    while len(out) < args.tokens and model.length < model.max_context:
        token = pick(logits, args.temperature, rng)
        if token in ends:
            break
        out.append(token)
        logits = model([token])
    seconds = time.perf_counter() - start
    print(json.dumps(out) if args.ids else args.prompt + tokenizer.decode(out))
    print(f"{len(out)} tokens, {len(out) / seconds:.1f} tokens/s")


if __name__ == "__main__":
    main()
