"""Advise: which precision makes each linear of a model fastest on a device, before anything is quantised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from hwfit.errors import HwfitError
from hwfit.kernels.op import Op, linear
from hwfit.latency_models.estimate import DataMiss, Estimate
from hwfit.precision import Precision
from hwfit.subnet import LINEARS, ModelShape, Subnet
from hwfit.workload import PHASES, Workload

ALIKE = {"k_proj": "k/v_proj", "v_proj": "k/v_proj", "gate_proj": "gate/up_proj", "up_proj": "gate/up_proj"}


@dataclass(frozen=True)
class Choice:
    """One precision of a linear against the baseline: seconds a call and how many times faster, with intervals."""

    precision: Precision
    estimate: Estimate
    speedup: float
    low: float
    high: float
    saved: int  # bytes of one such weight

    @property
    def slower(self) -> bool:
        """Slower than the baseline beyond the intervals."""
        return self.high < 1


@dataclass(frozen=True)
class Advice:
    """All precisions of one kind of linear in one phase, fastest first; `missing` says why others have no price."""

    name: str
    phase: str
    op: Op
    count: int  # weights of this kind in the model
    baseline: Estimate
    choices: tuple[Choice, ...]
    missing: tuple[str, ...]

    @property
    def fastest(self) -> Choice:
        return self.choices[0]


def advise(
    predict: Callable[[Op], Estimate],
    shape: ModelShape,
    workload: Workload,
    precisions: Iterable[Precision],
    baseline: Precision,
) -> list[Advice]:
    """Advice for every kind of linear, decode and prefill. `predict` prices an op (see `Lookup.predict`).

    Raises `HwfitError` listing every linear that has no baseline price, without which there is no speed-up.
    """
    whole = Subnet.whole(shape)
    shapes = {n: (out, into) for n, (out, into, _) in whole.block_linears(0).items()}
    names = {n: ALIKE.get(n, n) for n in LINEARS}
    found: list[Advice] = []
    problems: list[str] = []
    for phase_name in PHASES:
        phase = workload.phase(phase_name)
        kinds = [(names[n], *shapes[n], phase.m, shape.blocks * list(names.values()).count(names[n])) for n in LINEARS]
        kinds.append(("lm_head", shape.vocab, shape.hidden, phase.batch, 1))
        for name, n, k, m, count in dict.fromkeys(kinds):
            op = linear(m, n, k, baseline.name)
            try:
                base = predict(op)
            except DataMiss as miss:
                problems += miss.problems[1:2]
                continue
            choices, missing = _choices(predict, op, base, precisions, baseline)
            found.append(Advice(name, phase_name, op, count, base, choices, missing))
    if problems:
        raise HwfitError([f"no baseline {baseline} to compare with", *dict.fromkeys(problems)])
    return found


def _choices(
    predict: Callable[[Op], Estimate], op: Op, base: Estimate, precisions: Iterable[Precision], baseline: Precision
) -> tuple[tuple[Choice, ...], tuple[str, ...]]:
    whole = baseline.weight_bytes(op.n, op.k)
    choices = [Choice(baseline, base, 1.0, 1.0, 1.0, 0)]
    missing = []
    for p in precisions:
        if p == baseline:
            continue
        if p.group and op.k % p.group:
            missing.append(f"{p}: its groups do not divide {op.k} inputs")
            continue
        try:
            e = predict(replace(op, precision=p.name))
        except DataMiss as miss:
            missing.append(f"{p}: {next(iter(miss.missing.values()))}")
            continue
        saved = whole - p.weight_bytes(op.n, op.k)
        choices.append(Choice(p, e, base.value / e.value, base.low / e.high, base.high / e.low, saved))
    return tuple(sorted(choices, key=lambda c: c.estimate.value)), tuple(missing)


def uniform_seconds(advice: Sequence[Advice], precision: Precision, phase: str) -> float | None:
    """Seconds of all linears of a phase at one precision; None if one of them has no price."""
    total = 0.0
    for one in advice:
        if one.phase != phase:
            continue
        mine = [c for c in one.choices if c.precision == precision]
        if not mine:
            return None
        total += one.count * mine[0].estimate.value
    return total
