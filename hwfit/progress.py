"""Progress: one bar with elapsed time and time left, on stderr so that stdout keeps what a command prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Advance = Callable[..., None]
_shown: Progress | None = None
out_console = Console()
"""What commands print on."""


@contextmanager
def track(total: float | None, label: str, enabled: bool = True) -> Iterator[Advance]:
    """A bar of `total` steps; yields `advance(steps=1, note=None)`, where `note` is shown after the label.

    `total=None` is a spinner without time left. With `enabled=False` nothing is shown and `advance` does nothing.
    A bar opened inside another one is shown below it and goes when it ends. Not for use from several threads.

        with track(len(cells), "profile") as advance:
            for cell in cells:
                measure(cell)
                advance(note=cell.name)
    """
    if not enabled:
        yield lambda steps=1.0, note=None: None
        return
    global _shown
    outer, progress = _shown, _shown or _new_progress()
    if outer is None:
        _shown = progress
        progress.start()
    task = progress.add_task(label, total=total, note="")

    def advance(steps: float = 1.0, note: str | None = None) -> None:
        if note is not None:
            progress.update(task, note=note)
        progress.advance(task, steps)

    try:
        yield advance
    finally:
        if outer is None:
            _shown = None
            progress.stop()
        else:
            progress.remove_task(task)


def _new_progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
