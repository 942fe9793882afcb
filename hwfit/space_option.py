"""`--space`: what `hwfit profile` measures and `hwfit search` searches, and what of it the device cannot give."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from hwfit.errors import HwfitError, raise_all
from hwfit.kernels.op import linear
from hwfit.latency_models.priced_space import priceable, refuse_unpriced
from hwfit.latency_models.whole import WholeModel
from hwfit.models.llama import load_shape
from hwfit.precision import Precision
from hwfit.profiler.device import compute_capability
from hwfit.profiler.device_kinds import get_backend
from hwfit.progress import out_console
from hwfit.space import Space
from hwfit.space_files import AUTO, Opened, open_space
from hwfit.workload import PHASES, Workload

LARGE = 10**9


def space_of(
    model: Path, name: str = AUTO, precision: Sequence[str] = (), device: str = "cpu", sm: int | None = None
) -> Opened:
    """The space of a model that `--space` and `--precision` ask for; `sm` is the compute capability of a GPU that need
    not be here. Raises `HwfitError` listing all that is wrong."""
    problems = []
    for text in precision:
        try:
            Precision.parse(text)
        except HwfitError as error:
            problems += [f"--{p}" for p in error.problems]
    raise_all(problems)
    opened = open_space(name, load_shape(model), device, precision, sm or compute_capability(device))
    _tell(opened.left_out)
    if name != AUTO:
        count = opened.space.candidates()
        size = f"{count:,}" if count < LARGE else f"{_decimal(count)}"
        out_console.print(f"--space {name}: {size} candidates", soft_wrap=True)
    return opened


def measurable(opened: Opened, device: str) -> Space:
    """What there is to measure of a space that was asked for by name: precisions that no kernel runs are left out.

    Raises `HwfitError` if none runs.
    """
    space = opened.space
    if opened.name == AUTO:
        return space
    backend, widest = get_backend(device), max(space.hidden)
    reasons = {p: backend.why_not(linear(1, widest, widest, p.name)) for p in space.precisions}
    _tell(f"--space {opened.name}: {p} is not measured: {reason}" for p, reason in reasons.items() if reason)
    runs = tuple(p for p, reason in reasons.items() if not reason)
    if not runs:
        raise HwfitError(f"--space {opened.name}: no precision of it runs on {device}; give others with --precision")
    return replace(space, precisions=runs, linears=(), lm_head=())


def priced(
    opened: Opened,
    latency: WholeModel,
    workload: Workload,
    model: str,
    device: str = "cpu",
    tables: Path | None = None,
    precision: Sequence[str] = (),
    here: bool = True,
) -> Space:
    """The space, all of which the device's table prices; the device need not be in this machine (`here`).

    A derived space gives up what the table lacks, and says so. Raises `HwfitError` for what was asked for and lacks,
    with the command that measures it.
    """
    space, phases = opened.space, [workload.phase(name) for name in PHASES]
    if opened.name == AUTO and not precision:
        space, left_out = priceable(space, latency.lookup, phases)
        if left_out:
            _tell([f"--space auto: the table cannot price {', '.join(left_out)}: left out of the search"])
    command = profile_command(opened.name, workload, model, device, tables, precision)
    why_not = get_backend(device).why_not if here else lambda op: None
    refuse_unpriced(f"--space {opened.name}", space, latency.lookup, phases, command, why_not)
    return space


def profile_command(
    name: str, workload: Workload, model: str, device: str, tables: Path | None, precision: Sequence[str]
) -> str:
    """The `hwfit profile` that measures a space; only what differs from its defaults."""
    options = {
        "--space": name if name != AUTO else None,
        "--device": device if device != "cpu" else None,
        "--tables": tables,
    }
    words = [model, *(str(w) for option, value in options.items() if value is not None for w in (option, value))]
    words += workload.options
    words += [w for p in precision for w in ("--precision", p)]
    return shlex.join(["hwfit", "profile", *words])


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        out_console.print(line, soft_wrap=True, highlight=False, markup=False)


def _decimal(count: int) -> str:
    """`1.58e+38`, for counts beyond a float too."""
    digits = str(count)
    return f"{digits[0]}.{digits[1:3]}e+{len(digits) - 1}"
