"""What must be installed before anything runs on a GPU, said in words; and what kind of GPU it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

import torch

from hwfit.errors import HwfitError, raise_all

EXTRA = "pip install 'hwfit[gpu]'"
CUDA_TORCH = (
    "remove this torch and install one built for CUDA (on Linux `pip install torch` brings it; a wheel with +cpu in "
    f"its version has no GPU code), then {EXTRA}"
)


@dataclass(frozen=True)
class Gpu:
    """One GPU as torch sees it. `sm` is the compute capability as one number (90); sizes in bytes."""

    index: int
    name: str
    sm: int
    multiprocessors: int
    l2: int
    memory: int
    uuid: str | None


def current_gpu() -> Gpu:
    """The GPU that CUDA calls go to. Raises `HwfitError` with everything that is missing and how to install it."""
    raise_all(cuda_problems())
    try:
        index = torch.cuda.current_device()
        properties = torch.cuda.get_device_properties(index)
    except RuntimeError as error:
        raise HwfitError(
            f"--device cuda: the GPU does not answer ({first_line(error)}); see whether nvidia-smi lists it"
        ) from error
    return Gpu(
        index=index,
        name=properties.name,
        sm=10 * properties.major + properties.minor,
        multiprocessors=properties.multi_processor_count,
        l2=properties.L2_cache_size,
        memory=properties.total_memory,
        uuid=str(properties.uuid) if getattr(properties, "uuid", None) else None,
    )


def cuda_problems() -> list[str]:
    """Why this Python cannot use a GPU, one line each; empty if it can."""
    problems = torch_problems()
    if find_spec("triton") is None:
        problems.append(f"--device cuda: triton is not installed; {EXTRA} (the kernels are written in it)")
    if find_spec("pynvml") is None:
        problems.append(f"--device cuda: nvidia-ml-py is not installed; {EXTRA} (clocks and throttling are read by it)")
    return problems


def torch_problems(flag: str = "--device") -> list[str]:
    """Why torch itself finds no GPU; `flag` is the option that asked for one."""
    if torch.version.cuda is None:
        return [f"{flag} cuda: this torch {torch.__version__} has no CUDA; {CUDA_TORCH}"]
    return [] if torch.cuda.is_available() else [_no_driver(flag)]


def _no_driver(flag: str) -> str:
    built, driver = torch.version.cuda or "", driver_versions()
    if os.environ.get("CUDA_VISIBLE_DEVICES", "unset").strip() in ("", "-1"):
        return f"{flag} cuda: CUDA_VISIBLE_DEVICES hides every GPU; unset it, or name one, such as 0"
    if driver is None:
        return (
            f"{flag} cuda: torch {torch.__version__} is built for CUDA {built} but no NVIDIA driver answers; "
            f"see whether nvidia-smi runs, and use this machine's processor with {flag} cpu meanwhile"
        )
    name, speaks = driver
    return (
        f"{flag} cuda: driver {name} speaks CUDA {speaks} at most, torch {torch.__version__} is built for CUDA "
        f"{built} and finds no usable GPU; update the driver, or install a torch built for CUDA {speaks} or older"
    )


def driver_versions() -> tuple[str, str] | None:
    """`(driver, newest CUDA it speaks)`, such as `("580.82", "13.0")`; None where NVML does not answer."""
    try:
        import pynvml  # pyright: ignore[reportMissingImports]

        pynvml.nvmlInit()
        name = pynvml.nvmlSystemGetDriverVersion()
        number = pynvml.nvmlSystemGetCudaDriverVersion()
    except Exception:  # not installed, no driver: there is nothing to say then
        return None
    return name if isinstance(name, str) else name.decode(), f"{number // 1000}.{number % 1000 // 10}"


def package_version(name: str) -> str:
    """Version of an installed package; `none` where it is not."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "none"


def free_memory() -> int:
    """Bytes of GPU memory that could be allocated now, what torch holds unused included."""
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


@contextmanager
def memory_guard(what: str, needed: int, remedy: str) -> Iterator[None]:
    """Turn a lack of GPU memory while making `what` (about `needed` bytes) into a `HwfitError` that says `remedy`."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise HwfitError(
            f"--device cuda: {what} needs about {needed / 1e9:.1f} GB of GPU memory, {free_memory() / 1e9:.1f} GB are "
            f"free; {remedy}"
        ) from error


def first_line(error: BaseException) -> str:
    """What an exception says, at most 200 characters on one line."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]
