"""What a table alone answers: `hwfit predict` and `hwfit advise`; no weights and no device of its own are needed."""

from __future__ import annotations

from dataclasses import asdict
from json import dumps
from pathlib import Path

from rich.table import Table as RichTable

from hwfit.errors import HwfitError, raise_all
from hwfit.latency_models.advise import Advice, uniform_seconds
from hwfit.latency_models.advise import advise as advise_linears
from hwfit.latency_models.estimate import Estimate
from hwfit.latency_models.load import load_energy, load_latency, load_prices
from hwfit.latency_models.memory import memory
from hwfit.latency_models.whole import Prices, sum_ops
from hwfit.lut_store.resolve import resolve
from hwfit.lut_store.shipped import open_table
from hwfit.models.llama import check_config, load_shape, open_model
from hwfit.precision import KNOWN, Precision
from hwfit.profiler.device_kinds import DEVICES, fingerprint
from hwfit.progress import out_console
from hwfit.space import DEFAULTS
from hwfit.subnet import Subnet
from hwfit.target_device import kind_of
from hwfit.workload import PHASES, workload_of


def predict(
    target: str | None = None,
    device: str = "cpu",
    tables: Path | None = None,
    json: bool = False,
    config: Path | None = None,
    batch: int = 1,
    prompt: int = 128,
    context: int = 128,
) -> dict[str, dict[str, Estimate]]:
    """Predict latency, memory and, where the table has it, energy of a subnet (a subnet.json or a folder with one), or
    of MODEL at every precision of the table.

    `device` may be the key of any device in the table: what it would take there. `tables` may be `shipped`. `config` (a
    config.json) stands in for MODEL: no weights are needed. By name and `decode`, `prefill` (seconds), and
    `decode_joules`, `prefill_joules` where the device's energy was counted: the layers' own.
    """
    workload = workload_of(batch, prompt, context)
    key = device_key(device, tables)
    latency, joules = load_latency(key, tables), load_energy(key, tables)
    subnets = _subnets(target, config, latency.lookup)
    out: dict[str, dict[str, Estimate]] = {}
    energy = [f"{phase} J" for phase in PHASES] if joules else []
    table = RichTable("", "decode ms", "prefill ms", "memory MB", *energy, title=f"predicted for {key}")
    problems: list[str] = []
    for name, subnet in subnets.items():
        try:
            out[name] = {p: latency.predict(subnet, workload.phase(p)) for p in PHASES}
            if joules:
                out[name] |= {f"{p}_joules": sum_ops(joules, subnet, workload.phase(p)) for p in PHASES}
        except HwfitError as error:
            problems += error.problems
            continue
        cells = [_between(out[name][p], 1e3) for p in PHASES]
        cells.append(f"{memory(subnet, workload.context, workload.batch, key) / 1e6:.1f}")
        cells += [_between(out[name][f"{p}_joules"]) for p in PHASES if joules]
        table.add_row(name, *cells)
    if not any(PHASES[0] in found for found in out.values()):
        raise_all(problems)
    if json:
        print(dumps({name: {p: asdict(e) for p, e in by_phase.items()} for name, by_phase in out.items()}))
    else:
        out_console.print(table)
    return out


def _between(e: Estimate, unit: float = 1.0) -> str:
    interval = f" ({e.low * unit:.3g}–{e.high * unit:.3g})" if e.low < e.high else ""
    return f"{e.value * unit:.3g}{interval}"


def advise(
    model: str | None = None,
    device: str = "cpu",
    tables: Path | None = None,
    config: Path | None = None,
    batch: int = 1,
    prompt: int = 128,
    context: int = 128,
) -> list[Advice]:
    """Which precision makes each kind of linear of MODEL fastest on DEVICE, before anything is quantised.

    `config` (a config.json) stands in for MODEL: no weights are needed. `device` may be any in the table.
    """
    workload = workload_of(batch, prompt, context)
    shape, key = load_shape(config_of(model, config)), device_key(device, tables)
    prices = load_prices(key, tables)
    there = sorted(
        map(Precision.parse, sorted(prices.precisions)), key=lambda p: (-p.weight_bits, -p.act_bits, p.group or 0)
    )
    baseline = max(there, key=lambda p: (p.weight_bits == 16, p.weight_bits))
    found = advise_linears(prices.predict, shape, workload, there, baseline)
    table = RichTable(
        "phase",
        "linear",
        "m x n x k",
        "fastest",
        "times as fast",
        "MB saved",
        "slower than it",
        title=f"{key}, {baseline} = 1",
    )
    for one in found:
        best = one.fastest
        slower = ", ".join(f"{c.precision} ({c.speedup:.2f})" for c in one.choices if c.slower)
        table.add_row(
            one.phase,
            f"{one.name} x{one.count}",
            f"{one.op.m} x {one.op.n} x {one.op.k}",
            str(best.precision),
            f"{best.speedup:.2f} ({best.low:.2f}–{best.high:.2f})",
            f"{one.count * best.saved / 1e6:.0f}",
            f"[red]{slower}[/red]" if slower else "",
        )
    out_console.print(table)
    for phase in PHASES:
        totals = {p: uniform_seconds(found, p, phase) for p in there}
        base = totals[baseline]
        told = [f"{p} {base / s:.2f}" for p, s in totals.items() if s and base]
        out_console.print(f"all linears of {phase}, times as fast: {', '.join(told)}")
    for reason in sorted({reason for one in found for reason in one.missing}):
        out_console.print(f"no price: {reason}", soft_wrap=True)
    return found


def config_of(model: str | None, config: Path | None) -> Path:
    """A folder, or a file, whose config says the shapes. Raises `HwfitError` unless one of the two is given."""
    if (model is None) == (config is None):
        given = "both are" if model else "neither is"
        raise HwfitError(f"give MODEL or --config FILE; {given} given")
    if model is not None:
        return open_model(model)
    assert config
    check_config(config)
    return config


def device_key(device: str, tables: Path | None) -> str:
    """The table's key of `device`: this machine's, or that of any device the table knows."""
    return fingerprint(device).key if device in DEVICES else resolve(open_table(tables), device)


def _subnets(target: str | None, config: Path | None, prices: Prices) -> dict[str, Subnet]:
    """What a MODEL|SUBNET argument stands for; a model, at every precision that its device's table knows."""
    if target and config is None:
        path = Path(target)
        file = path / "subnet.json" if path.is_dir() else path
        if file.suffix == ".json" and file.exists():
            return {file.parent.name if path.is_dir() else file.name: Subnet.load(file)}
        if path.suffix == ".json":
            raise HwfitError(f"subnet '{target}' does not exist; allowed: a subnet.json, a folder with one, or a model")
    shape = load_shape(config_of(target, config))
    embed = DEFAULTS[kind_of(prices.device)].embed
    return {name: Subnet.whole(shape, name, embed) for name in KNOWN if name in prices.precisions}
