from __future__ import annotations

import json
from pathlib import Path

import pytest
from report_fixture import synthetic_results


@pytest.fixture
def raw() -> dict:
    return synthetic_results(blocks=24)


@pytest.fixture
def run_dir(tmp_path: Path, raw: dict) -> Path:
    (tmp_path / "results.json").write_text(json.dumps(raw))
    return tmp_path
