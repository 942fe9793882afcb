"""The compile check itself, on a few launches: the figures it gives, and what it takes for a spill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="triton is not installed (the optional extra `gpu`)")

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_sample_of_kernels_compiles_without_spilling(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "benchmarks.kernel_compile", "--sample", "6", "--json"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])["figures"]
    assert figures["configs"] == 6
    assert figures["spilling"] == figures["over_shared_memory"] == 0
    assert figures["registers.max"] > 16
