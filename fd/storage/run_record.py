"""The machine and the package versions that made a result."""

from __future__ import annotations

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from fd.errors import FdError
from fd.runtime import limits
from fd.runtime.device import device_name
from fd.storage.files import digests, read_record, write_record

PACKAGES = ("torch", "numpy", "mujoco", "ogbench", "minari", "gymnasium", "gymnasium-robotics", "dvc")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result may depend on; absent packages are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine_facts(device: torch.device) -> dict[str, str | int | float | None]:
    """CPU model, cores and memory in GiB that this process may use, and the GPU that it used (None: the CPU)."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": limits.cores(),
        "memory_gib": round(limits.memory_limit(alone=False)[0] / 2**30, 1),
        "gpu": device_name(device) if device.type == "cuda" else None,
    }


def write_run_record(path: Path, record: dict[str, Any], *, output: Path, device: torch.device, start: float) -> None:
    """Writes a stage's record as JSON, with versions, machine, device and the seconds since `start` (of `time.monotonic`).

    The record is a file beside the output, because the output has the same bytes on every run and the seconds do not. It holds the
    SHA-256 of each file of the output, a folder or a file, so that readers can check them.
    """
    seconds = {"seconds": round(time.monotonic() - start, 1)}
    made = {"files": digests(output), "versions": package_versions(), "machine": machine_facts(device)}
    write_record(path, record | made | seconds)


def check_device(record: Path, device: torch.device) -> None:
    """Checks that a cell was trained on the device that continues its work: another one draws other random numbers.

    Args:
        record: of the cell, see `write_run_record`.
        device: of this process.

    Raises:
        FdError: it was trained on another device, or there is no such record.
    """
    machine = read_record(record, "the stage that trained it writes it").get("machine")
    trained, here = (machine.get("gpu") if isinstance(machine, dict) else None) or "cpu", device_name(device)
    if trained != here:
        raise FdError(
            f"{record}: was trained on {trained}, this is {here}, whose random numbers differ (allowed: the same device, see"
            " compute.device, or run that stage again)"
        )
