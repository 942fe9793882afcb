"""What the doctor looks at on a processor. Files are read below `SYSFS` and `CGROUP`; nothing is written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from hwfit.profiler.device import cpu_fingerprint, read_system
from hwfit.profiler.doctor import Finding, Verdict

SYSFS = Path("/sys/devices/system/cpu")
CGROUP = Path("/sys/fs/cgroup")
LOOK = 1.0
"""Seconds over which load and steal are watched."""
QUIET = 10
"""Per cent of the machine that others may use unnoticed."""
CELLS_NEED = 2_000_000_000
LEAST_FREE = 500_000_000
"""Bytes: what a batch of chains takes, and below which the system would swap."""


@dataclass(frozen=True)
class Load:
    """Per cent of all processor time over `LOOK` seconds: used by others, and taken away by the hypervisor."""

    others: float
    steal: float


def findings() -> list[Finding]:
    load = watch(LOOK)
    return [
        governor(),
        turbo(),
        others(load.others),
        cores(),
        smt(),
        heat(),
        virtual(cpu_fingerprint().virtual, load.steal),
        quota(),
        memory(psutil.virtual_memory().available),
    ]


def watch(seconds: float) -> Load:
    """Look at the whole machine; this process sleeps meanwhile, so all that is used is others'."""
    times = psutil.cpu_times_percent(interval=seconds)
    steal = getattr(times, "steal", 0.0)
    idle = times.idle + getattr(times, "iowait", 0.0)
    return Load(max(0.0, 100.0 - idle - steal), steal)


def governor() -> Finding:
    name = read_system(SYSFS / "cpu0/cpufreq/scaling_governor")
    if name is None:
        return Finding("governor", "not visible here", "good", "the host decides on the clock; the anchors follow it")
    if name == "performance":
        return Finding("governor", name, "good", "the clock does not wait for load to rise")
    return Finding(
        "governor",
        name,
        "warn",
        "short samples may run before the clock has risen: the first rounds are slow and intervals wider",
        "choose the governor 'performance' (cpupower frequency-set) while measuring",
    )


def turbo() -> Finding:
    switches = (SYSFS / "cpufreq/boost", "1"), (SYSFS / "intel_pstate/no_turbo", "0")
    states = [(read_system(path), on) for path, on in switches]
    found = next((text == on for text, on in states if text is not None), None)
    if found is None:
        return Finding(
            "turbo", "not visible here", "good", "unknown; the anchors correct for a clock that moves slowly"
        )
    if not found:
        return Finding("turbo", "off", "good", "the clock depends on neither heat nor neighbours")
    return Finding(
        "turbo",
        "on",
        "warn",
        "the clock follows heat and busy neighbours; the anchors in each round correct for most of it",
        "switch turbo off in the firmware to compare tables of different days closely",
    )


def others(busy: float) -> Finding:
    count = os.cpu_count() or 1
    found = f"{busy:.0f} % of {count} processors"
    if busy < QUIET:
        effect = "no one else wants the caches or the memory"
        return Finding("load of other processes", found, "good", effect)
    effect = "waiting is not counted, but others evict caches and share memory bandwidth: wider intervals"
    if busy > 100 - QUIET:
        effect += ", and every core is taken: fewer samples in the same minutes"
    remedy = "end or pause other programs while measuring"
    return Finding("load of other processes", found, "warn", effect, remedy)


def cores() -> Finding:
    physical = psutil.cpu_count(logical=False) or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = f"{physical} cores, {allowed} processors allowed to this process"
    if allowed > 1:
        return Finding("cores", found, "good", "the measuring thread can have a core to itself")
    return Finding(
        "cores",
        found,
        "warn",
        "the measuring thread shares its only processor with everything else, interrupts included",
        "allow a second processor (taskset, or the container's settings)",
    )


def smt() -> Finding:
    active = read_system(SYSFS / "smt/active")
    if active is None:
        return Finding("SMT", "not visible here", "good", "unknown")
    if active == "0":
        return Finding("SMT", "off", "good", "no sibling shares the core")
    return Finding(
        "SMT",
        "on",
        "warn",
        "a busy sibling slows the core, and processor time counts that; the anchors see it as drift",
        "keep the siblings idle, or pin other programs elsewhere",
    )


def heat() -> Finding:
    """How far the hottest sensor is below the temperature at which the clock is lowered."""
    rooms = list(_headrooms())
    if not rooms:
        return Finding("temperature", "no sensor here", "good", "unknown; a slow clock would show in the anchors")
    room = min(rooms)
    if room >= 15:
        return Finding("temperature", f"{room:.0f} degrees below its limit", "good", "the clock is not held down")
    return Finding(
        "temperature",
        f"{room:.0f} degrees below its limit",
        "warn" if room > 3 else "bad",
        "near its limit a processor lowers its clock within seconds: long runs slow down as they go",
        "let it cool, clean or raise the fans, then measure",
    )


def virtual(hypervisor: bool, steal: float) -> Finding:
    if not hypervisor and steal < 1:
        return Finding("virtualisation", "none seen", "good", "nobody schedules above this system")
    verdict: Verdict = "good" if steal < 1 else "bad" if steal > 20 else "warn"
    effect = {
        "good": "neighbours on the host share caches and memory unseen; the anchors correct for slow drift",
        "warn": "stolen time is counted as this thread's own: expect spikes, the p10 leaves most of them out",
        "bad": "so much stolen time is counted as this thread's own that latencies mean nothing",
    }[verdict]
    remedy = "" if verdict == "good" else "measure at another time, or on a machine with processors of its own"
    return Finding("virtualisation", f"virtual machine, {steal:.1f} % of its time stolen", verdict, effect, remedy)


def quota() -> Finding:
    """Processors that the container's quota allows."""
    text = (read_system(CGROUP / "cpu.max") or "max").split()
    if text[0] == "max":
        return Finding("container quota", "none", "good", "no pauses by the container's accounting")
    share = int(text[0]) / int(text[1])
    return Finding(
        "container quota",
        f"{share:.2g} processors",
        "warn" if share >= 1 else "bad",
        "when the quota is used up the thread is paused, up to 0.1 s at a time; pauses are not counted but cool caches",
        "give the container whole processors" if share < 1 else "raise or lift the quota",
    )


def memory(free: int) -> Finding:
    verdict: Verdict = "good" if free >= CELLS_NEED else "warn" if free >= LEAST_FREE else "bad"
    effect = {
        "good": "chains fit",
        "warn": "a batch of chains takes up to 2 GB: large layers may fail or push other programs out",
        "bad": "chains would be swapped out: times would be those of the disk",
    }[verdict]
    remedy = "" if verdict == "good" else f"free {(CELLS_NEED - free) / 1e9:.1f} GB"
    return Finding("free memory", f"{free / 1e9:.1f} GB", verdict, effect, remedy)


def _headrooms() -> Iterable[float]:
    read = getattr(psutil, "sensors_temperatures", None)
    for sensors in (read() if read else {}).values():
        for sensor in sensors:
            limit = sensor.high or sensor.critical
            if limit and sensor.current:
                yield limit - sensor.current
