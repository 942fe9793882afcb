from __future__ import annotations

import pytest

from hwfit.progress import track


def test_a_bar_counts_on_stderr_and_leaves_stdout_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with track(3, "profile [cells]") as advance:
        advance()
        advance(2, note="q_proj")
    out, err = capsys.readouterr()
    assert out == ""
    assert "profile [cells]" in err
    assert "q_proj" in err
    assert "3/3" in err
    assert "elapsed" in err
    assert "left" in err


def test_disabled_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with track(3, "profile", enabled=False) as advance:
        advance(3, note="x")
    assert capsys.readouterr() == ("", "")


def test_bars_nest_and_a_failure_closes_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), track(2, "outer"), track(None, "inner"):
        raise ZeroDivisionError
    with track(1, "after") as advance:
        advance()
    shown = capsys.readouterr().err.splitlines()
    assert any("outer" in line and "0/2" in line for line in shown)
    assert any("after" in line and "1/1" in line for line in shown)
    assert not any("inner" in line for line in shown), "an inner bar goes when it ends"
