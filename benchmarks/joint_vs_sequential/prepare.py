"""Prepare: all that the other machine needs besides the model, in a few small files."""

from __future__ import annotations

import shutil
from argparse import ArgumentParser, Namespace
from pathlib import Path
from statistics import geometric_mean

from benchmarks.joint_vs_sequential.plan import GOALS, Folder, Plan
from hwfit.errors import HwfitError
from hwfit.evaluate.requests import save_requests
from hwfit.evaluate.tasks import TASKS
from hwfit.latency_models.load import load_latency
from hwfit.latency_models.memory import memory
from hwfit.lut_store.shipped import open_table
from hwfit.lut_store.whole_runs import FOLDER
from hwfit.models.llama import load_config, load_shape, load_tokenizer, open_model
from hwfit.models.text import heldout_texts, pack_tokens, train_texts
from hwfit.profiler.device_kinds import fingerprint
from hwfit.profiler.subnets import p10s, time_subnets
from hwfit.search.costs import predicted_cost
from hwfit.search.strategies.picks import uniform_precisions
from hwfit.space import Space
from hwfit.subnet import Subnet
from hwfit.workload import Workload


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tables", type=Path, help="latency table of this processor")
    parser.add_argument("--text", type=Path, help="own training and held-out text, split in two")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=int, nargs="+", default=[85, 70, 55], help="per cent of the fastest uniform")
    parser.add_argument("--loose", type=int, nargs="+", default=[350, 180, 90], help="the same, for prefill in memory")
    parser.add_argument("--seconds", type=float, default=4.0, help="for which each uniform model is timed")
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--train", type=int, default=2400, help="training sequences a seed")
    parser.add_argument("--validation", type=int, default=48, help="validation sequences a seed")
    parser.add_argument("--heldout", type=int, default=256, help="sequences for perplexity")
    parser.add_argument("--documents", type=int, default=500, help="questions a task")


def run(folder: Folder, options: Namespace) -> None:
    from hwfit.evaluate.prepare import prepare_requests  # lm-eval takes seconds to load, and only this stage needs it

    path = open_model(options.model)
    shape, tokenizer, device, workload = load_shape(path), load_tokenizer(path), fingerprint("cpu").key, Workload()
    space = Space.default(shape)
    latency = load_latency(device, options.tables)
    offered = [space.precisions[i] for i in uniform_precisions(space)]
    whole = {p.name: Subnet.whole(shape, p, space.embed) for p in offered}
    measured = p10s(time_subnets(whole, load_config(path), workload, options.tables, "cpu", options.seconds))
    small = min(whole, key=lambda name: whole[name].weight_bytes)
    limits, bias, uniform = {}, {}, {}
    for goal, phase in GOALS.items():
        fast, within = min(whole, key=lambda name: measured[name][phase]), {}
        seen = [fast]
        if goal != phase:
            within, seen = {"memory": float(memory(whole[small], workload.context))}, [fast, small]
        ratios = [predicted_cost(latency, workload, whole[n], [phase])[phase] / measured[n][phase] for n in seen]
        bias[goal], uniform[goal] = geometric_mean(ratios), fast
        shares = options.budgets if goal == phase else options.loose
        limits[goal] = {share: {phase: share / 100 * measured[fast][phase]} | within for share in shares}
    rows = options.train + options.validation
    texts = train_texts(options.text)
    train = pack_tokens(texts, tokenizer, options.seeds * rows * options.seq, options.seq)
    unseen = texts[::-1] if options.text else heldout_texts()
    heldout = pack_tokens(unseen, tokenizer, options.heldout * options.seq, options.seq)
    if len(train) < options.seeds * rows or len(heldout) < options.heldout:
        raise HwfitError(f"--train {options.train}: the texts hold {len(train)} sequences; give fewer or shorter ones")
    folder.save_tokens({"train": train.view(options.seeds, rows, options.seq), "heldout": heldout})
    save_requests(folder.requests, prepare_requests(tokenizer, tuple(TASKS), options.documents))
    _copy_table(open_table(options.tables).path, folder.tables, device)
    shutil.copy(path / "config.json", folder.config)
    folder.save_plan(
        Plan(
            options.model,
            device,
            workload,
            limits,
            bias,
            uniform,
            options.seeds,
            options.seq,
            options.train,
            options.validation,
        )
    )
    size = sum(file.stat().st_size for file in (folder.path / "input").rglob("*") if file.is_file())
    print(f"{folder.path / 'input'}: {size / 1e6:.1f} MB, {len(folder.plan().jobs())} searches")


def _copy_table(source: Path, target: Path, device: str) -> None:
    """This device's parts and whole runs of a table."""
    for part in (*source.glob(f"{device}*.parquet"), *(source / FOLDER).glob(f"{device}*.json")):
        to = target / part.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(part, to)
