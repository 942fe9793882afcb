"""What the doctor looks at on a GPU, read through NVML; no setting is changed."""

from __future__ import annotations

import torch

from hwfit.errors import HwfitError
from hwfit.kernels.cuda_env import Gpu, cuda_problems, current_gpu, package_version
from hwfit.profiler.doctor import Finding
from hwfit.profiler.nvml import Facts, Nvml, Process, State
from hwfit.profiler.preflight import BUSY, foreign

TRITON = ((3, 6), (3, 7))
"""Oldest and newest minor version that the kernels are written for."""
ROOM = 10
"""Degrees below the slow-down temperature that leave a long run room."""


def findings() -> list[Finding]:
    """Software first: without it there is nothing to look at."""
    if missing := cuda_problems():
        return [Finding("software", problem, "bad", "nothing can be measured") for problem in missing]
    try:
        gpu = current_gpu()
        nvml = Nvml(gpu.index, gpu.uuid)
    except HwfitError as error:
        return [Finding("software", str(error), "bad", "nothing can be measured")]
    others = foreign(nvml.others())
    return look(gpu, nvml.facts(), nvml.state(), others, nvml.utilisation())


def look(gpu: Gpu, facts: Facts, state: State, others: list[Process], used: int | None) -> list[Finding]:
    """Findings from what NVML says."""
    return [
        versions(gpu, facts),
        sharing(others, used),
        mig(facts),
        ecc(facts),
        persistence(facts),
        clocks(facts, state),
        power(facts, state),
        heat(facts, state),
        memory(facts),
    ]


def versions(gpu: Gpu, facts: Facts) -> Finding:
    triton, built = package_version("triton"), torch.version.cuda or "none"
    found = (
        f"{gpu.name} (sm_{gpu.sm}), driver {facts.driver} speaks CUDA {facts.cuda}, torch {torch.__version__} for CUDA "
        f"{built}, triton {triton}"
    )
    if facts.cuda and _numbers(facts.cuda)[:1] < _numbers(built)[:1]:
        effect = "kernels may not load: the driver is older than the CUDA they are built for"
        return Finding("versions", found, "bad", effect, "update the driver, or install torch for an older CUDA")
    if not TRITON[0] <= _numbers(triton)[:2] <= TRITON[1]:
        allowed = " to ".join(".".join(map(str, version)) for version in TRITON)
        effect = "the kernels were written and compiled for other versions: speeds may differ, or compiling fail"
        return Finding("versions", found, "warn", effect, f"install triton {allowed}")
    return Finding("versions", found, "good", "recorded with every table: another version moves times by 2-3 %")


def sharing(others: list[Process], used: int | None) -> Finding:
    if others:
        held = ", ".join(f"{p.pid}" + (f" ({p.memory / 1e9:.1f} GB)" if p.memory else "") for p in others)
        effect = "their kernels take turns with ours and evict the cache: times may be anything"
        remedy = "wait for them, end them, or choose another GPU (CUDA_VISIBLE_DEVICES)"
        return Finding("other processes", held, "bad", effect, remedy)
    if (used or 0) >= BUSY:
        effect = "someone's kernels run, seen as load but not as a process: another container or the host"
        return Finding(
            "other processes", f"{used} % of the time busy", "warn", effect, "look at nvidia-smi on the host"
        )
    return Finding("other processes", "none", "good", "the GPU is ours")


def mig(facts: Facts) -> Finding:
    if facts.mig is None:
        return Finding("MIG", "not supported here", "good", "the GPU is whole")
    if not facts.mig:
        return Finding("MIG", "off", "good", "the GPU is whole")
    effect = "times hold for one partition only; power and energy are the whole GPU's, neighbours' included"
    return Finding("MIG", "on", "bad", effect, "measure a whole GPU, or give --allow-mig for a table of the partition")


def ecc(facts: Facts) -> Finding:
    if facts.ecc is None:
        return Finding("ECC", "not told", "good", "unknown")
    if facts.ecc:
        return Finding("ECC", "on", "good", "as servers run; HBM pays nothing for it, GDDR some bandwidth")
    effect = "on GDDR memory bandwidth is up to a tenth higher than on servers, which run with it on"
    return Finding("ECC", "off", "warn", effect, "compare only with tables of the same setting")


def persistence(facts: Facts) -> Finding:
    if facts.persistence is not False:
        return Finding("persistence mode", "on" if facts.persistence else "not told", "good", "the driver stays loaded")
    effect = "the driver unloads between programs: starts take seconds and the energy counter begins anew; times do not"
    return Finding("persistence mode", "off", "warn", effect, "an administrator can switch it on (nvidia-smi -pm 1)")


def clocks(facts: Facts, state: State) -> Finding:
    highest, chosen = facts.max_sm_clock, facts.set_sm_clock
    found = f"now {state.sm_clock} MHz, highest {highest} MHz" + (f", set to {chosen} MHz" if chosen else "")
    if state.throttle:
        effect = "the clock is held down now: samples would be thrown away and taken again, and a profile take long"
        return Finding("clocks", f"{found}; held down by {', '.join(state.throttle)}", "warn", effect, "let it cool")
    if chosen and highest and chosen < 0.95 * highest:
        effect = "a set clock repeats well, but figures are those of this clock, not of the GPU as it is sold"
        return Finding("clocks", found, "warn", effect, "note it beside the figures, or have it reset")
    return Finding(
        "clocks", found, "good", "boost clocks move with heat and load; the anchors in each round follow them"
    )


def power(facts: Facts, state: State) -> Finding:
    limit, usual = facts.power_limit, facts.default_power_limit
    if limit is None:
        return Finding("power limit", "not told", "good", "unknown")
    found = f"{limit:.0f} W" + (f" of the usual {usual:.0f} W" if usual and usual != limit else "")
    if usual and limit < 0.95 * usual:
        effect = "prefill and other compute-bound work is slowed by the limit; decode hardly is"
        return Finding("power limit", found, "warn", effect, "note it beside the figures, or have it reset")
    return Finding("power limit", found, "good", "as sold; samples held back by it are taken again")


def heat(facts: Facts, state: State) -> Finding:
    if state.temperature is None or facts.slow_down_at is None:
        return Finding("temperature", "not told", "good", "unknown; throttling would show as a reason beside a sample")
    room = facts.slow_down_at - state.temperature
    found = f"{state.temperature} C, slows down at {facts.slow_down_at} C"
    if room > ROOM:
        return Finding("temperature", found, "good", "room for a long run")
    effect = "a few seconds of load will reach the limit: most samples would be thrown away"
    return Finding("temperature", found, "warn" if room > 0 else "bad", effect, "let it cool or improve the airflow")


def memory(facts: Facts) -> Finding:
    if facts.memory_free is None or facts.memory_total is None:
        return Finding("free memory", "not told", "good", "unknown")
    found = f"{facts.memory_free / 1e9:.0f} of {facts.memory_total / 1e9:.0f} GB"
    if facts.memory_free >= 12e9:
        return Finding("free memory", found, "good", "a batch of chains takes up to 8 GB, a whole model its weights")
    verdict = "warn" if facts.memory_free >= 3e9 else "bad"
    return Finding(
        "free memory", found, verdict, "chains get shorter and large models do not fit", "end other programs"
    )


def _numbers(version: str) -> tuple[int, ...]:
    """`3.6.0` -> (3, 6, 0); what is no number ends it."""
    out = []
    for part in version.split("."):
        if not part.isdigit():
            break
        out.append(int(part))
    return tuple(out)
