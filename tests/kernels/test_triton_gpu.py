"""All kernels at all their configurations on a real GPU, where there is one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed (the optional extra `gpu`)")

HERE = Path(__file__).parent
BOUND = {"float16": 4e-3, "bfloat16": 3e-2}  # the outputs' own rounding, and that of weights before the product


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_every_candidate_is_right_on_this_gpu() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, str(HERE / "triton_on_gpu.py")]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    errors = json.loads(run.stdout.splitlines()[-1])
    assert len(errors) > 200
    wrong = {name: error for name, error in errors.items() if not error < BOUND[name.split()[1]]}
    assert not wrong
