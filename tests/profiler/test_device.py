import re
from pathlib import Path

import pytest

from hwfit.profiler import device as device_module
from hwfit.profiler.device_kinds import fingerprint

ZEN = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: 25
model\t\t: 17
model name\t: AMD EPYC 9R14 @ 2.6 GHz
stepping\t: 1
cpu MHz\t\t: {mhz}
flags\t\t: fpu avx2 avx512f avx512_vnni hypervisor {extra}

processor\t: 1
model name\t: another
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp sve i8mm bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"


@pytest.fixture
def cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`cpu(text, l3)` makes this machine look like that processor."""

    def become(text: str, l3: str = "32768K") -> None:
        (tmp_path / "cpuinfo").write_text(text)
        for index, level, kind, size in ((0, "1", "Data", "48K"), (1, "2", "Unified", "1M"), (2, "3", "Unified", l3)):
            folder = tmp_path / f"cache/index{index}"
            folder.mkdir(parents=True, exist_ok=True)
            for name, value in (("level", level), ("type", kind), ("size", size)):
                (folder / name).write_text(value + "\n")
        monkeypatch.setattr(device_module, "CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(device_module, "SYSFS", tmp_path)

    return become


def test_this_machine():
    first = fingerprint("cpu")
    assert first == fingerprint("cpu")
    assert re.fullmatch(r"cpu-[a-z0-9-]+-[0-9a-f]{6}", first.key)
    assert first.cores >= 1
    assert first.memory > 1e8


def test_facts_are_read(cpu):
    cpu(ZEN.format(mhz=2600, extra=""))
    found = fingerprint()
    assert found.name == "AMD EPYC 9R14 @ 2.6 GHz"
    assert found.key.startswith("cpu-amd-epyc-9r14-25-17-")
    assert (found.l2, found.l3) == (2**20, 2**25)
    assert found.isa == ("avx2", "avx512_vnni", "avx512f")
    assert found.virtual
    assert found.governor is None


def test_key_ignores_what_changes_between_boots(cpu):
    cpu(ZEN.format(mhz=2600, extra=""))
    key = fingerprint().key
    cpu(ZEN.format(mhz=3100, extra="ibpb md_clear"))
    assert fingerprint().key == key


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model\t\t: 17", "model\t\t: 1"),
        ("avx512_vnni", "sse4_1"),
        ("9R14", "9R15"),
        ("stepping\t: 1", "stepping\t: 2"),
    ],
)
def test_key_tells_processors_apart(cpu, old: str, new: str):
    text = ZEN.format(mhz=2600, extra="")
    cpu(text)
    key = fingerprint().key
    cpu(text.replace(old, new))
    assert fingerprint().key != key


def test_key_tells_caches_apart(cpu):
    cpu(ZEN.format(mhz=2600, extra=""))
    key = fingerprint().key
    cpu(ZEN.format(mhz=2600, extra=""), l3="16M")
    assert fingerprint().key != key


def test_arm_and_a_system_without_cpuinfo(cpu):
    cpu(ARM)
    arm = fingerprint()
    assert arm.isa == ("asimd", "asimddp", "bf16", "i8mm", "sve")
    cpu("")
    assert fingerprint().key != arm.key
