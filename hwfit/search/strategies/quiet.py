"""Quiet: keeps what a C library prints out of what a command prints."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_stdout() -> Iterator[None]:
    """Drops what is written to file descriptor 1 meanwhile, C's buffers included.

    HiGHS prints a debugging line that no option of scipy's turns off, and C writes it at exit: after the JSON that is
    to be the last line.
    """
    libc = ctypes.CDLL(None)
    sys.stdout.flush()
    libc.fflush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        libc.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
