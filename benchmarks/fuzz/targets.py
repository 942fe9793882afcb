"""Targets: a valid small file of every kind that hwfit reads, and the public readers it goes through."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file

from benchmarks.fuzz.forms import CSV, GGUF, JSON, PARQUET, SAFETENSORS, TEXT, YAML, gguf_bytes
from benchmarks.fuzz.run_targets import RUN_TARGETS
from benchmarks.fuzz.target import CONFIG, OUT, SHAPE, SUBNET, Target
from hwfit.bench import kept_times
from hwfit.deploy.bundle import load_bundle, random_bundle, save_bundle
from hwfit.kernels.op import linear
from hwfit.latency_models.overhead import Overhead
from hwfit.lut_store.facts import Facts, facts_of
from hwfit.lut_store.importing import import_file, imported_row, imported_run
from hwfit.lut_store.table import Table
from hwfit.lut_store.whole_runs import WholeRun, append_runs, read_runs
from hwfit.models.gguf_file import read_gguf
from hwfit.models.llama import check_config, load_config, load_weights, open_model, tensor_shapes
from hwfit.models.text import read_texts
from hwfit.report.results import Results, Row, RowKind, Timing, read_results, write_results
from hwfit.rotary import Rotary
from hwfit.search import checkpoint
from hwfit.search.budget import Budget
from hwfit.search.choice import Choice
from hwfit.search.optimise import StepLog
from hwfit.space_files import open_space
from hwfit.stages import Stages
from hwfit.subnet import Subnet
from hwfit.workload import PHASES, Workload

DEVICE = "fuzz"


def _write_table(folder: Path) -> None:
    run = imported_run("r", DEVICE, {"source": "fuzz"}, Facts(1e10, 1e11))
    rows = [imported_row(linear(m, 64, 64, "w8a8"), run, backend="b", p10=m * 1e-6) for m in (1, 8)]
    Table(folder).append(rows, run)


def _read_table(folder: Path) -> None:
    table = Table(folder)
    for part in (table.known, table.references, table.read):
        part(DEVICE)
    table.runs()
    facts_of(table, DEVICE)


def _write_gguf(folder: Path) -> None:
    sizes = {"attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64)}
    sizes |= {"ffn_gate": (64, 64), "ffn_up": (64, 64), "ffn_down": (64, 64), "attn_norm": (64,), "ffn_norm": (64,)}
    numbers = {"attention.head_count": 4, "attention.head_count_kv": 2, "embedding_length": 64, "block_count": 1}
    numbers |= {"feed_forward_length": 64, "vocab_size": 32, "context_length": 128, "rope.dimension_count": 16}
    fields = {"general.architecture": "llama", **{f"llama.{name}": n for name, n in numbers.items()}}
    fields |= {"llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 5000.0}
    tensors = {"token_embd.weight": (32, 64), "output_norm.weight": (64,)}
    tensors |= {f"blk.0.{name}.weight": size for name, size in sizes.items()}
    (folder / "m.gguf").write_bytes(gguf_bytes({"fields": fields, "tensors": tensors}))


def _write_model(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    shapes = {name: size for name, size in tensor_shapes(SHAPE).items() if name != "lm_head.weight"}
    save_file({name: torch.ones(size, dtype=torch.float16) for name, size in shapes.items()}, folder / "m.safetensors")


def _read_model(folder: Path) -> None:
    load_weights(open_model(folder, progress=False))


def _read_config(folder: Path) -> None:
    path = folder / "config.json"
    check_config(path)
    Rotary.of(load_config(path))


def _write_results(folder: Path) -> None:
    timing = Timing(1e-3, 0.9e-3, 1.1e-3, 1e-3)
    rows = [
        Row(name, kind, timing, timing, 1e6, 20.0, 19.0, 21.0, SUBNET, 4.0, {"decode": 2e-3}) for name, kind in NAMED
    ]
    write_results(Results("m", "2026-01-01", {"name": "fuzz"}, Workload(), tuple(rows)), folder)


def _choice() -> str:
    log = (StepLog(0, 3.0, {"decode": 1e-3}, 0.5, {"decode": 0.1}),)
    return Choice("a", "joint", Budget((("decode", 1e-3),)), SUBNET, log).to_json("key")


NAMED: tuple[tuple[str, RowKind], ...] = (("original", "original"), ("joint", "joint"))
CSV_TEXT = "m,n,k,precision,latency_ms,samples\n1,64,64,w8a8,0.1,30\n8,64,64,w8a8,0.4,30\n"
SPACE = {"mlp": [64, 32], "depth": {"range": [1, 2]}, "precisions": ["w8a8g32", "w4a8g32"], "fit_groups": True}
SPACE |= {"hidden": {"fractions": [1, "1/2"], "multiple": 32}, "precision_per": "linear"}
RUN = WholeRun(SUBNET, Workload().decode, 1e-3, 0.9e-3, 1.1e-3)


def _write_times(folder: Path) -> None:
    times = {phase: asdict(Timing(2e-3, 1e-3, 3e-3, raw=2e-3)) for phase in PHASES}
    models = {"a": {"subnet": json.loads(SUBNET.to_json()), "times": times}}
    (folder / "timed.json").write_text(json.dumps({"device": DEVICE, "models": models}))


def _save_checkpoint(folder: Path) -> None:
    checkpoint.save(folder / "c.safetensors", {"a": torch.ones(4, 4), "b": torch.ones(3)}, {"key": "key", "step": 3})


TARGETS: dict[str, Target] = {
    "table": Target(_write_table, _read_table, {"*.parquet": PARQUET}),
    "whole runs": Target(
        lambda f: append_runs(f, DEVICE, [RUN]), lambda f: read_runs(f, DEVICE), {"whole/*.json": JSON}
    ),
    "import csv": Target(
        lambda f: (f / "i.csv").write_text(CSV_TEXT),
        lambda f: import_file(f / "i.csv", DEVICE, Table(f / OUT)),
        {"i.csv": CSV},
    ),
    "subnet": Target(
        lambda f: (f / "s.json").write_text(SUBNET.to_json()), lambda f: Subnet.load(f / "s.json"), {"s.json": JSON}
    ),
    "space": Target(
        lambda f: (f / "s.yaml").write_text(yaml.safe_dump(SPACE)),
        lambda f: open_space(str(f / "s.yaml"), SHAPE),
        {"s.yaml": YAML},
    ),
    "config": Target(lambda f: (f / "config.json").write_text(json.dumps(CONFIG)), _read_config, {"config.json": JSON}),
    "model": Target(_write_model, _read_model, {"config.json": JSON, "*.safetensors": SAFETENSORS}),
    "budget": Target(
        lambda f: (f / "b.txt").write_text("decode=6ms\nprefill=1.5 s\nmemory=90MB"),
        lambda f: Budget.parse(
            (f / "b.txt").read_text(errors="replace").split("\n") if (f / "b.txt").is_file() else []
        ),
        {"b.txt": TEXT},
    ),
    "gguf": Target(_write_gguf, lambda f: read_gguf(f / "m.gguf"), {"m.gguf": GGUF}),
    "bundle": Target(
        lambda f: save_bundle(random_bundle(SUBNET, CONFIG), f),
        load_bundle,
        {"subnet.json": JSON, "config.json": JSON, "*.safetensors": SAFETENSORS},
    ),
    "checkpoint": Target(
        _save_checkpoint, lambda f: checkpoint.load(f / "c.safetensors", "key"), {"c.safetensors": SAFETENSORS}
    ),
    "found": Target(
        lambda f: (f / "a.json").write_text(_choice()), lambda f: Choice.load(f / "a.json", "key"), {"a.json": JSON}
    ),
    "results": Target(_write_results, read_results, {"results.json": JSON}),
    "times": Target(_write_times, lambda f: kept_times(f / "timed.json", {"device": DEVICE}), {"timed.json": JSON}),
    "stages": Target(
        lambda f: (f / "stages.json").write_text('{"search": 1.5, "distil": 20}'), Stages.of, {"stages.json": JSON}
    ),
    "overhead": Target(
        lambda f: Overhead(device=DEVICE).save(f / "o.json"), lambda f: Overhead.load(f / "o.json"), {"o.json": JSON}
    ),
    "text": Target(
        lambda f: (f / "t.jsonl").write_text('{"text": "One."}\n{"text": "Two."}\n'),
        lambda f: read_texts(f / "t.jsonl"),
        {"t.jsonl": TEXT},
    ),
    **RUN_TARGETS,
}
