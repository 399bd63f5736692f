"""GPUs through a library that is as NVIDIA's: what is read, what is told, what counts as broken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from backends.workers.gpu import HARMLESS_XIDS, Gpu, Gpus, NvmlSource, TorchSource, open_torch
from tests.support.nvml import UUID, Nvml

GIB = 1 << 30


def test_a_device_is_read_and_one_that_is_lost_is_a_failure() -> None:
    nvml = Nvml()
    gpus = Gpus(lambda: NvmlSource(nvml))
    assert gpus.read() == ((Gpu(0, "H100", 5, 80, 0.75, 61, 0, None, UUID),), "", False)
    nvml.lost = True
    assert gpus.read() == ((), "cannot be read (GPU is lost)", True)
    nvml.lost = False
    assert gpus.read()[2] is False


def test_what_a_device_does_not_tell_is_left_out() -> None:
    devices, _, failed = Gpus(lambda: NvmlSource(Nvml(silent=True))).read()
    assert devices == (Gpu(0, "H100", 5, 80, 0.0, None, None, None, None),)
    assert not failed
    assert devices[0].trouble is None


@pytest.mark.parametrize("xid", [48, 63, 74, 79, 94, 119])
def test_an_xid_error_of_the_device_makes_it_unhealthy_for_good(xid: int) -> None:
    nvml = Nvml()
    gpus = Gpus(lambda: NvmlSource(nvml))
    nvml.events = [xid]
    for _ in range(2):
        (device,), _, _ = gpus.read()
        assert device.xid == xid
        assert f"Xid {xid}" in (device.trouble or "")


def test_an_xid_error_of_the_application_does_not() -> None:
    nvml = Nvml()
    gpus = Gpus(lambda: NvmlSource(nvml))
    nvml.events = sorted(HARMLESS_XIDS)
    assert gpus.read()[0][0].trouble is None
    assert not nvml.events


def test_a_flood_of_events_takes_bounded_time() -> None:
    nvml = Nvml()
    gpus = Gpus(lambda: NvmlSource(nvml))
    nvml.events = [13] * 1000
    gpus.read()
    assert len(nvml.events) == 1000 - 64


@pytest.mark.parametrize(
    ("gpu", "trouble"),
    [
        (Gpu(0, "H100", 94 * GIB, 100 * GIB, 1.0), None),
        (Gpu(0, "H100", 96 * GIB, 100 * GIB, 1.0), "96% of its memory in use"),
        (Gpu(0, "H100", 0, 0, 0.0), None),
        (Gpu(0, "H100", 1, 80, 0.0, ecc_errors=3), "3 uncorrected memory errors: reset the device"),
    ],
)
def test_what_makes_a_device_unhealthy(gpu: Gpu, trouble: str | None) -> None:
    assert gpu.trouble == trouble
    assert gpu.as_json()["healthy"] is (trouble is None)


def test_torch_is_asked_where_nvml_is_missing() -> None:
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 1,
        mem_get_info=lambda index: (30, 80),
        get_device_name=lambda index: "H100",
    )

    def missing() -> Any:
        raise ImportError("No module named 'pynvml'")

    gpus = Gpus(missing, lambda: TorchSource(SimpleNamespace(cuda=cuda)))
    assert gpus.read() == ((Gpu(0, "H100", 50, 80, 0.0),), "", False)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("No module named 'pynvml'"), "not present (nvidia-ml-py is not installed)"),
        (Nvml.NVMLError("NVML Shared Library Not Found"), "not present (NVML Shared Library Not Found)"),
    ],
)
def test_a_machine_without_gpus_is_asked_once_and_says_so(error: Exception, message: str) -> None:
    loads = 0

    def load() -> Any:
        nonlocal loads
        loads += 1
        raise error

    gpus = Gpus(load)
    assert gpus.read() == gpus.read() == ((), message, False)
    assert loads == 1


def test_torch_is_never_loaded_for_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(__import__("sys").modules, "torch", raising=False)
    with pytest.raises(RuntimeError, match="torch sees no device"):
        open_torch()
