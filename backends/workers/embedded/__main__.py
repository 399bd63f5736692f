"""`python -m backends.workers.embedded text --model tide --port 9001`: one text model on this machine."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backends.workers.embedded.catalogue import model_folder, model_names
from backends.workers.embedded.server import ENGINE_DEAD, TextServer
from backends.workers.serving import run

if TYPE_CHECKING:  # torch takes seconds to import: it comes with the model, behind the open socket
    from backends.workers.embedded.engine import Engine
    from backends.workers.embedded.loading import Loaded

#: Tokens a second of a carried model's answers: at the pace of reading, as a demonstration wants it.
_PACE = 60.0
#: Prompt tokens read in one step on a GPU.
_GPU_PREFILL = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """What to serve and how; times in seconds.

    `model`: the name of a carried model, or the folder of any transformers causal language model. `served_names` are
    what requests may call it (default: its own name). `tokens_per_second` paces each answer, 0 is as fast as it goes;
    None: 60 for a carried model, 0 for others. `timeout` is the longest time of a request, `drain` what running ones
    have after the signal. `device`, `dtype` and `max_model_len` (tokens) are for models in folders.
    """

    model: str
    host: str = "127.0.0.1"
    port: int = 9001
    served_names: Sequence[str] = ()
    tokens_per_second: float | None = None
    max_num_seqs: int = 32
    timeout: float = 300.0
    drain: float = 30.0
    device: str = "auto"
    dtype: str = "auto"
    max_model_len: int | None = None

    @property
    def folder(self) -> Path | None:
        """The folder that is meant; None for a carried model. Raises OSError or ValueError for what is neither."""
        model = self.model
        if model in model_names():
            return None
        folder = Path(model).expanduser()
        if not (folder.exists() or model.startswith(("/", "./", "../", "~"))):
            model_folder(model)
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(f"{model} does not appear to have a file named config.json")
        return folder.resolve()


def _version() -> str:
    try:
        return importlib.metadata.version("seawall")
    except importlib.metadata.PackageNotFoundError:  # run from its sources
        return "0+sources"


def serve_text(options: TextOptions) -> None:
    """Serves a model until SIGTERM or SIGINT.

    Raises ValueError for an unknown model or damaged files, OSError if there are none or the port is taken, MemoryError
    where it does not fit, RuntimeError if a step of the model fails.
    """
    folder = options.folder  # what is not there fails before the socket opens
    version = _version()

    def load() -> Loaded:
        if folder is None:
            from backends.workers.embedded.loading import load as load_carried

            return load_carried(options.model, version)
        from backends.workers.transformers.loading import load as load_folder

        return load_folder(
            folder, version, device=options.device, dtype=options.dtype, max_model_len=options.max_model_len
        )

    def engine(loaded: Loaded) -> Engine:
        from backends.workers.embedded.engine import PREFILL_BUDGET, Engine

        pace = options.tokens_per_second
        return Engine(
            loaded.model,
            loaded.tokenizer,
            max_num_seqs=options.max_num_seqs,
            tokens_per_second=(_PACE if folder is None else 0.0) if pace is None else pace,
            prefill_budget=PREFILL_BUDGET if loaded.model.device.type == "cpu" else _GPU_PREFILL,
        )

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        names = options.served_names or [options.model if folder is None else folder.name]
        server = TextServer(names, version, timeout=options.timeout)
        await run(server, load, engine, options.host, options.port, stop, drain=options.drain, lost=ENGINE_DEAD)

    asyncio.run(serve())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backends.workers.embedded", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    text = kinds.add_parser("text", help="a text model behind vLLM's HTTP interface")
    carried = ", ".join(model_names())
    text.add_argument("--model", default="tide", help=f"{carried}, or the folder of a transformers causal model")
    text.add_argument("--host", default="127.0.0.1")
    text.add_argument("--port", type=int, default=9001)
    text.add_argument("--served-model-name", action="append", default=[], help="may be repeated; default: the model's")
    text.add_argument("--tokens-per-second", type=float, help="of each answer; 0: as fast as it goes")
    text.add_argument("--max-num-seqs", type=int, default=32, help="answers generated at once; more wait")
    text.add_argument("--timeout", type=float, default=300.0, help="longest time of a request, in seconds")
    text.add_argument("--drain", type=float, default=30.0, help="seconds for running requests to end after SIGTERM")
    folder = text.add_argument_group("for models in folders")
    folder.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 …; default: a GPU if there is one")
    folder.add_argument(
        "--dtype", default="auto", help="bfloat16, float16, float32, float64; default: as stored, on the CPU float32"
    )
    folder.add_argument("--max-model-len", type=int, help="tokens of a prompt and its answer; default: the model's")
    return parser


def _options(argv: Sequence[str] | None) -> TextOptions:
    parser = _parser()
    given = vars(parser.parse_args(argv))
    del given["kind"]
    options = TextOptions(served_names=given.pop("served_model_name"), **given)
    if (options.tokens_per_second or 0) < 0 or options.max_num_seqs < 1:
        parser.error("--tokens-per-second must not be negative, --max-num-seqs must be at least 1")
    if options.timeout <= 0 or options.drain < 0 or (options.max_model_len or 2) < 2:
        parser.error("--timeout must be positive, --drain must not be negative, --max-model-len must be at least 2")
    try:
        options.folder  # noqa: B018 - whether there is one
    except ValueError:
        known = ", ".join(model_names())
        parser.error(f"argument --model: invalid choice: {options.model!r} (choose from {known}, or give a folder)")
    except OSError:
        pass  # the program is right and the files are not there
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. 0: ended by a signal; 1: failed; 2: usage."""
    options = _options(argv)
    try:
        serve_text(options)
    except ImportError as error:
        extra = "transformers" if error.name == "transformers" else "embedded"
        print(f"The text worker needs more packages: pip install 'seawall[{extra}]' ({error})", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        print(f"The text worker stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
