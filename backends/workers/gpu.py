"""GPUs of this machine and what is wrong with them: through NVML, or through torch where NVML is missing.

Importing this module loads neither.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

#: Share of a device's memory in use above which it is unhealthy: the next allocation may fail.
MEMORY_FULL = 0.95
#: Xid errors that the application caused, not the device (NVIDIA's Xid catalogue; the set that its Kubernetes device
#: plugin ignores). Every other one means that the device needs a reset or a repair.
HARMLESS_XIDS = frozenset({13, 31, 43, 45, 68, 109})
_MAX_EVENTS = 64


@dataclass(frozen=True, slots=True)
class Gpu:
    """One device. Memory in bytes, `utilisation` 0 to 1, `temperature` in degrees Celsius; None where nothing says.

    `ecc_errors`: memory errors since the driver was loaded that could not be corrected. `xid`: the last error of the
    driver that was the device's own. `uuid` as NVIDIA's tools write it, `GPU-…`.
    """

    index: int
    name: str
    memory_used: int
    memory_total: int
    utilisation: float
    temperature: int | None = None
    ecc_errors: int | None = None
    xid: int | None = None
    uuid: str | None = None

    @property
    def memory_share(self) -> float:
        return self.memory_used / self.memory_total if self.memory_total else 0.0

    @property
    def fault(self) -> str | None:
        """What makes it unfit for any work until it is reset, or None."""
        return None if self.xid is None else f"Xid {self.xid}: the device failed; reset or replace it"

    @property
    def trouble(self) -> str | None:
        """What makes it unhealthy, or None."""
        if self.fault is not None:
            return self.fault
        if self.ecc_errors:
            return f"{self.ecc_errors} uncorrected memory errors: reset the device"
        if self.memory_share > MEMORY_FULL:
            return f"{self.memory_share:.0%} of its memory in use"
        return None

    def as_json(self) -> dict[str, Any]:
        """For health documents."""
        return asdict(self) | {"healthy": self.trouble is None, "message": self.trouble or ""}


class Source(Protocol):
    """A way to read devices. `read` raises what the library raises when a device that was there can't be read."""

    def read(self) -> Sequence[Gpu]: ...


class Gpus:
    """Reads the devices from the first of `sources` that can be opened, tried once each."""

    def __init__(self, *sources: Callable[[], Source]) -> None:
        self._sources = sources or (open_nvml,)
        self._source: Source | None = None
        self._absent = ""

    def read(self) -> tuple[tuple[Gpu, ...], str, bool]:
        """(devices, message, whether devices that should be there can't be read)."""
        if self._source is None and not self._absent:
            self._open()
        if self._source is None:
            return (), self._absent, False
        try:
            devices = tuple(self._source.read())
        except Exception as error:  # a library's own, and different, exceptions
            return (), f"cannot be read ({_reason(error)})", True
        return devices, "" if devices else "not present (no devices)", False

    def _open(self) -> None:
        reasons = []
        for opened in self._sources:
            try:
                self._source = opened()
            except Exception as error:  # no package, no driver, no device: each with an exception of its own
                reasons.append(_reason(error))
            else:
                return
        self._absent = f"not present ({'; '.join(reasons)})"


def _reason(error: Exception) -> str:
    return "nvidia-ml-py is not installed" if isinstance(error, ImportError) else str(error) or type(error).__name__


def open_nvml() -> Source:
    """NVIDIA's management library. Raises ImportError without nvidia-ml-py, NVMLError without driver or devices."""
    import pynvml

    pynvml.nvmlInit()
    return NvmlSource(pynvml)


def open_torch() -> Source:
    """torch's own view of the devices: memory alone. Raises RuntimeError where torch is not loaded or sees none."""
    torch = sys.modules.get("torch")  # never worth loading for this
    if torch is None or not torch.cuda.is_available():
        raise RuntimeError("torch sees no device")
    return TorchSource(torch)


class NvmlSource:
    """`nvml` is the module pynvml. What a device does not tell (a MIG slice, a board without ECC) is left out."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._xids: dict[int, int] = {}
        self._events = self._subscribe()

    def read(self) -> Sequence[Gpu]:
        self._take_events()
        return [self._device(index) for index in range(self._nvml.nvmlDeviceGetCount())]

    def _device(self, index: int) -> Gpu:
        nvml = self._nvml
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        busy = self._told(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
        return Gpu(
            index,
            name if isinstance(name, str) else name.decode(),
            memory.used,
            memory.total,
            (busy or 0) / 100,
            self._told(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            self._told(
                lambda: nvml.nvmlDeviceGetTotalEccErrors(
                    handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
                )
            ),
            self._xids.get(index),
            self._uuid(handle),
        )

    def _uuid(self, handle: Any) -> str | None:
        try:
            said = self._nvml.nvmlDeviceGetUUID(handle)
        except self._nvml.NVMLError:
            return None
        return said if isinstance(said, str) else str(said.decode())

    def _told(self, ask: Callable[[], int]) -> int | None:
        try:
            return ask()
        except self._nvml.NVMLError:
            return None

    def _subscribe(self) -> Any:
        """Has the driver keep Xid errors for us from now on; None where it can't."""
        nvml = self._nvml
        try:
            events = nvml.nvmlEventSetCreate()
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, events)
        except nvml.NVMLError:
            return None
        return events

    def _take_events(self) -> None:
        nvml = self._nvml
        for _ in range(_MAX_EVENTS if self._events is not None else 0):
            try:
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
            except nvml.NVMLError:  # a time-out: there are no more
                return
            if event.eventData not in HARMLESS_XIDS:
                self._xids[nvml.nvmlDeviceGetIndex(event.device)] = event.eventData


class TorchSource:
    """`torch` is the module."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def read(self) -> Sequence[Gpu]:
        cuda = self._torch.cuda
        devices = []
        for index in range(cuda.device_count()):
            free, total = cuda.mem_get_info(index)
            devices.append(Gpu(index, cuda.get_device_name(index), total - free, total, 0.0))
        return devices
