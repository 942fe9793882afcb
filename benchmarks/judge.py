"""python -m benchmarks.judge --json: `evaluate` against stock lm-eval document by document, and what `validate` finds.

Drift is that of a copy of the model, which is nowhere known, so that nothing is read back; and of a copy with one block
zeroed.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors.torch import load_file, save_file

from benchmarks.common import parser, publish
from benchmarks.stock_lm_eval import asked, stock_answer, stock_samples
from hwfit.evaluate.ask import ask
from hwfit.evaluate.benchmarks import BENCHMARKS, PAPER, parse_tasks
from hwfit.evaluate.drift import ALL, Drift, Limits, Probe, find_drift
from hwfit.evaluate.target import find_target
from hwfit.models.llama import load_shape, open_model
from hwfit.packs import cache_dir

PARTS = ("agreement", "drift")


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--model", default="smollm2-135m")
    options.add_argument("--tasks", default=",".join(PAPER), help="comma-separated")
    options.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options.add_argument("--documents", type=int, default=20, help="a task")
    options.add_argument("--rows", type=int, default=8, help="of 128 tokens a domain")
    options.add_argument("--context", type=int, default=1024, help="tokens of a long sequence")
    options.add_argument("--block", type=int, help="the one that is zeroed; default: the middle one")
    options.add_argument("--threads", type=int, default=2)
    args = options.parse_args()
    tasks, source, start = parse_tasks(args.tasks), open_model(args.model), time.perf_counter()
    figures: dict[str, float] = {}
    if "agreement" in args.parts:
        with _copy(source) as same:
            for name in tasks:
                n, differing = agreement(same, name, args.documents, args.threads)
                figures |= {f"{name} documents": n, f"{name} differing from stock lm-eval": differing}
                print(f"{name}: {differing} of {n} documents answered otherwise than by stock lm-eval", flush=True)
    if "drift" in args.parts:
        block = load_shape(source).blocks // 2 if args.block is None else args.block
        probe = Probe(dict.fromkeys(tasks, 0), args.documents, args.rows, context=args.context)
        original = find_target(str(source), threads=args.threads)
        for label, zeroed in (("same", None), (f"block {block} zeroed", block)):
            with _copy(source, zeroed) as copy:
                drift = find_drift(original, find_target(str(copy), threads=args.threads), probe, Limits())
            figures |= {f"{label}: {what}": value for what, value in drift_figures(drift).items()}
            print("\n".join(f"{label}: {told}" for told in drift.failures or ("within all limits",)), flush=True)
    publish("judge", {**figures, "minutes": (time.perf_counter() - start) / 60}, args.json)
    return 0


def agreement(folder: Path, name: str, documents: int, threads: int = 2) -> tuple[int, int]:
    """(documents asked at the paper's shots, those to which stock lm-eval has another answer)."""
    known = BENCHMARKS[name]
    ours = ask(find_target(str(folder), threads=threads), name, known.shots, documents)
    theirs = [stock_answer(s, known.metric) for s in stock_samples(folder, name, known.shots, asked(ours))]
    return ours.n, sum(a != b for a, b in zip(ours.answers, theirs, strict=True))


def drift_figures(drift: Drift) -> dict[str, float]:
    """The worst of each part."""
    every = {**drift.domains, **drift.languages, **drift.long}
    assert drift.refusals is not None
    return {
        "answers changed": sum(f.lost + f.won + f.swapped for f in drift.flips.values()),
        "answers": sum(f.n for f in drift.flips.values()),
        "KL, domains": drift.domains[ALL].kl,
        "KL, languages": drift.languages[ALL].kl,
        "largest KL of a token": max(d.kl_max for d in every.values()),
        "largest increase of perplexity": max(d.increase for d in every.values()),
        "refusals lost or new": len(drift.refusals.lost) + len(drift.refusals.new),
        "limits broken": len(drift.failures),
    }


@contextmanager
def _copy(source: Path, zeroed: int | None = None) -> Iterator[Path]:
    """A model folder with a hash of its own, and its answers, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="hwfit-judge-") as name:
        folder = Path(name) / "model"
        shutil.copytree(source, folder, copy_function=os.symlink)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(json.dumps({**config, "note": name}), encoding="utf-8")
        for path in source.glob("*.safetensors") if zeroed is not None else ():
            tensors = load_file(path)
            for key in tensors:
                if key.startswith(f"model.layers.{zeroed}."):
                    tensors[key].zero_()
            (folder / path.name).unlink()
            save_file(tensors, folder / path.name, metadata={"format": "pt"})
        key = find_target(str(folder)).key
        try:
            yield folder
        finally:
            shutil.rmtree(cache_dir() / "results" / key[:16], ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
