"""NVIDIA's management library without a GPU: a stand-in for pynvml, and one for the driver's library below it.

The second is compiled from `libnvidia-ml.c`, and the real pynvml loads it: what it reads stands in a file.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

UUID = "GPU-11111111-2222-3333-4444-555555555555"
_SOURCE = Path(__file__).with_name("libnvidia-ml.c")


class Nvml:
    """pynvml, with one device. `silent`: it tells no more than name and memory, as a MIG slice."""

    class NVMLError(Exception):
        pass

    nvmlEventTypeXidCriticalError = 8  # noqa: N815
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0

    def __init__(self, *, silent: bool = False, used: int = 5) -> None:
        self.silent = silent
        self.used = used
        self.lost = False
        self.ecc = 0
        self.events: list[int] = []

    def _ask(self, value: Any) -> Any:
        if self.silent:
            raise self.NVMLError("Not Supported")
        return value

    def nvmlDeviceGetCount(self) -> int:
        if self.lost:
            raise self.NVMLError("GPU is lost")
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"device {index}"

    def nvmlDeviceGetIndex(self, handle: str) -> int:
        return int(handle.split()[1])

    def nvmlDeviceGetName(self, handle: str) -> str:
        return "H100"

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(used=self.used, total=80)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return self._ask(SimpleNamespace(gpu=75))

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> Any:
        return self._ask(61)

    def nvmlDeviceGetTotalEccErrors(self, handle: str, error: int, counter: int) -> Any:
        return self._ask(self.ecc)

    def nvmlEventSetCreate(self) -> Any:
        return self._ask("events")

    def nvmlDeviceRegisterEvents(self, handle: str, types: int, events: str) -> None:
        assert types == self.nvmlEventTypeXidCriticalError

    def nvmlEventSetWait_v2(self, events: str, timeout: int) -> Any:
        if not self.events:
            raise self.NVMLError("Timeout")
        return SimpleNamespace(device="device 0", eventData=self.events.pop(0))

    def nvmlDeviceGetUUID(self, handle: str) -> Any:
        return self._ask(UUID)


@dataclass(frozen=True, slots=True)
class Driver:
    """The driver's library in a folder, with one device; `set` says what it tells from now on."""

    folder: Path

    @classmethod
    def build(cls, folder: Path) -> Driver:
        """Compiles it. Raises FileNotFoundError without a C compiler."""
        compiler = shutil.which("cc")
        if compiler is None:
            raise FileNotFoundError("no C compiler (cc)")
        target = folder / "libnvidia-ml.so.1"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", str(target), str(_SOURCE)], check=True)
        driver = cls(folder)
        driver.set()
        return driver

    @property
    def env(self) -> dict[str, str]:
        """What a process needs in its environment to find it."""
        return {"LD_LIBRARY_PATH": str(self.folder), "FAKE_NVML_STATE": str(self.folder / "state")}

    def set(self, *, used: int = 10, total: int = 100, ecc: int = 0, xid: int = 0) -> None:
        """Memory in GiB; a new `xid` is an event. It is busy for 40 % of the time, and has 55 degrees Celsius."""
        scratch = self.folder / "state.new"
        scratch.write_text(f"{used << 30} {total << 30} 40 55 {ecc} {xid}\n")
        scratch.replace(self.folder / "state")
