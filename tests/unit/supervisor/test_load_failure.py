"""Why a model was not loaded, told from what the servers really print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.workers.load_failure import ADVICE, Cause, Signs, is_noise, load_failure, percent_done, without_prefix

WORKER = "(Worker pid=9983) ERROR 11-25 02:46:09 [multiproc_executor.py:953] "
ROOT_ABOVE = [
    "(EngineCore pid=12) ERROR 11-25 02:46:10 [core.py:1000] RuntimeError: Engine core initialization failed.",
    "Traceback (most recent call last):",
    '  File "/opt/vllm/entrypoints/cli/main.py", line 73, in main',
    "    raise RuntimeError(",
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        # vLLM 0.32's own, captured
        ("RuntimeError: Cannot find any model weights with `/models/llama`", Cause.FILES),
        ("huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name'", Cause.FILES),
        ("huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot", Cause.FILES),
        (WORKER + "safetensors._safetensors_rust.SafetensorError: Error while deserializing header", Cause.WEIGHTS),
        (
            "The text worker needs more packages: pip install 'seawall[transformers]' (No module named 'x')",
            Cause.PROGRAM,
        ),
        ("vllm: error: unrecognized arguments: --no-such-flag 3", Cause.USAGE),
        (
            "  Value error, Sleep mode is not supported on current platform. [type=value_error]",
            Cause.USAGE,
        ),
        ("  Value error, User-specified max_model_len (99999) is greater than the derived max_model_len", Cause.USAGE),
        ("RuntimeError: start (0) + length (512) exceeds dimension size (256).", Cause.WEIGHTS),
        ("OSError: It looks like the config file at '/m/config.json' is not a valid JSON file.", Cause.WEIGHTS),
        ("ValueError: Couldn't instantiate the backend tokenizer from one of:", Cause.FILES),
        (
            "RuntimeError: Worker failed with error 'Available memory on node 0 (12.11/15.46 GiB) on kv cache "
            "allocation is less than requested memory for kv (400.0 GiB).",
            Cause.MEMORY,
        ),
        ("OSError: /m does not appear to have a file named config.json.", Cause.FILES),
        ("RuntimeError: Error(s) in loading state_dict for Decoder: size mismatch for embed.weight", Cause.WEIGHTS),
        ("ValueError: the weights in tide do not fit its config.json", Cause.WEIGHTS),
        ("  Value error, Model architectures ['WhaleForCausalLM'] are not supported for now.", Cause.UNSUPPORTED),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", Cause.MEMORY),
        ("ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`", Cause.MEMORY),
        (
            "ValueError: Free memory on device (10.1/79.1 GiB) on startup is less than desired GPU memory utilization",
            Cause.MEMORY,
        ),
        (
            "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is "
            "needed, which is larger than the available KV cache memory (3.1 GiB).",
            Cause.MEMORY,
        ),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory", Cause.MEMORY),
        ("RuntimeError: The NVIDIA driver on your system is too old (found version 11040).", Cause.DEVICE),
        ("RuntimeError: Found no NVIDIA driver on your system.", Cause.DEVICE),
        ("RuntimeError: CUDA error: no kernel image is available for execution on the device", Cause.DEVICE),
        ("ImportError: libcudart.so.12: cannot open shared object file: No such file or directory", Cause.DEVICE),
        ("AssertionError: Torch not compiled with CUDA enabled", Cause.DEVICE),
        ("RuntimeError: Failed to infer device type, please set the environment variable", Cause.DEVICE),
        ("RuntimeError: operator torchvision::nms does not exist", Cause.DEVICE),
        ("huggingface_hub.errors.GatedRepoError: 403 Client Error. Access to model is restricted", Cause.ACCESS),
        ("PermissionError: [Errno 13] Permission denied: '/models/llama/config.json'", Cause.ACCESS),
        ("OSError: [Errno 98] Address already in use", Cause.PORT),
        ("127.0.0.1:8000 is already in use by another process", Cause.PORT),
        ("AssertionError", Cause.UNKNOWN),
    ],
)
def test_the_cause_is_found_under_what_is_said_after_it(line: str, cause: Cause) -> None:
    rest = [] if cause is Cause.UNKNOWN else ROOT_ABOVE
    failure = load_failure(["INFO starting", line, *rest * 40], 1)
    assert failure.cause is cause
    assert failure.line == without_prefix(line).strip()
    assert failure.advice == ADVICE[cause]


@pytest.mark.parametrize(
    ("lines", "status", "cause"),
    [
        (["Loading shards:  50% Completed"], -9, Cause.MEMORY),  # the kernel's out-of-memory killer says nothing
        (["cannot start vllm: No such file or directory"], 127, Cause.PROGRAM),
        (["usage: worker [-h]"], 2, Cause.USAGE),
        ([], 1, Cause.UNKNOWN),
        (["done"], 0, Cause.UNKNOWN),
    ],
)
def test_where_the_lines_say_nothing_the_exit_status_does(lines: list[str], status: int, cause: Cause) -> None:
    assert load_failure(lines, status).cause is cause


def test_a_warning_is_no_cause() -> None:
    warning = "(APIServer pid=1) WARNING 11-25 02:45:39 [utils.py:255] libcuda.so.1: cannot open shared object file"
    assert load_failure([warning, "AssertionError: shapes"], 1).line == "AssertionError: shapes"


def test_every_cause_has_advice() -> None:
    assert set(ADVICE) == set(Cause)


@given(st.lists(st.text(max_size=80), max_size=20), st.none() | st.integers(-64, 255))
def test_any_output_has_one_cause(lines: list[str], status: int | None) -> None:
    signs = Signs()
    for line in lines:
        signs.read(line)
    assert signs.failure(status).cause in Cause


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        ("Loading safetensors checkpoint shards:  50% Completed | 2/4 [00:02<00:02]", 0.5),
        ("model.safetensors: 100%|█████| 2.2G/2.2G", 1.0),
        ("Downloading: 7.5%", 0.07),
        ("GPU KV cache usage: 250%", 1.0),
        ("Using max model len 512", None),
    ],
)
def test_progress_is_read_from_a_line(line: str, progress: float | None) -> None:
    assert percent_done(line) == progress


@pytest.mark.parametrize(
    ("line", "noise"),
    [
        ("nanobind: leaked 64 types!", True),
        (' - leaked type "triton._C.libtriton.ir.block"', True),
        ("    ^^^^^^^^^^^^^^^", True),
        ("ValueError: bad weights", False),
    ],
)
def test_what_native_libraries_say_while_they_end_is_not_kept(line: str, noise: bool) -> None:
    assert is_noise(line) is noise
