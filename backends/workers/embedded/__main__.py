"""`python -m backends.workers.embedded text --model tide --port 9001`: one small text model on this machine's CPU."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from backends.workers.embedded.catalogue import model_folder, model_names
from backends.workers.embedded.server import TextServer, run

if TYPE_CHECKING:  # torch takes seconds to import: it comes with the model, behind the open socket
    from backends.workers.embedded.engine import Engine
    from backends.workers.embedded.loading import Loaded


def serve_text(
    model: str,
    host: str = "127.0.0.1",
    port: int = 9001,
    served_names: Sequence[str] = (),
    tokens_per_second: float = 60.0,
    max_num_seqs: int = 32,
    timeout: float = 300.0,
    drain: float = 30.0,
) -> None:
    """Serves a carried model until SIGTERM or SIGINT.

    `served_names` are what requests may call it (default: its own name); `tokens_per_second` paces each answer, 0 is
    as fast as it goes; `timeout` is the longest time of a request, `drain` what running ones have after the signal, in
    seconds. Raises ValueError for an unknown model, OSError if the port is taken, RuntimeError if a step
    of the model fails.
    """
    model_folder(model)  # an unknown name fails before the socket opens
    version = importlib.metadata.version("seawall")

    def load() -> Loaded:
        from backends.workers.embedded.loading import load as load_model

        return load_model(model, version)

    def engine(loaded: Loaded) -> Engine:
        from backends.workers.embedded.engine import Engine

        return Engine(loaded.model, loaded.tokenizer, max_num_seqs=max_num_seqs, tokens_per_second=tokens_per_second)

    async def serve() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        server = TextServer(served_names or [model], version, timeout=timeout)
        await run(server, load, engine, host, port, stop, drain=drain)

    asyncio.run(serve())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. 0: ended by a signal; 1: failed; 2: usage."""
    parser = argparse.ArgumentParser(prog="python -m backends.workers.embedded", description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    text = kinds.add_parser("text", help="a text model behind vLLM's HTTP interface")
    text.add_argument("--model", default="tide", choices=model_names())
    text.add_argument("--host", default="127.0.0.1")
    text.add_argument("--port", type=int, default=9001)
    text.add_argument("--served-model-name", action="append", default=[], help="may be repeated; default: the model's")
    text.add_argument("--tokens-per-second", type=float, default=60.0, help="of each answer; 0: as fast as it goes")
    text.add_argument("--max-num-seqs", type=int, default=32, help="answers generated at once; more wait")
    text.add_argument("--timeout", type=float, default=300.0, help="longest time of a request, in seconds")
    text.add_argument("--drain", type=float, default=30.0, help="seconds for running requests to end after SIGTERM")
    given = parser.parse_args(argv)
    if given.tokens_per_second < 0 or given.max_num_seqs < 1:
        parser.error("--tokens-per-second must not be negative, --max-num-seqs must be at least 1")
    if given.timeout <= 0 or given.drain < 0:
        parser.error("--timeout must be positive, --drain must not be negative")
    try:
        serve_text(
            given.model,
            given.host,
            given.port,
            given.served_model_name,
            given.tokens_per_second,
            given.max_num_seqs,
            given.timeout,
            given.drain,
        )
    except ImportError as error:
        print(f"The text worker needs torch: pip install 'seawall[embedded]' ({error})", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, ValueError, MemoryError) as error:
        print(f"The text worker stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
