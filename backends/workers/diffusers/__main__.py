"""`python -m backends.workers.diffusers --port 9004`: an image model behind OpenAI's images API."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backends.workers.diffusers.server import DEVICE_LOST, ImageServer
from backends.workers.serving import run

if TYPE_CHECKING:  # torch and diffusers take seconds to import: they come with the pipeline, behind the open socket
    from backends.workers.diffusers.image_queue import ImageQueue
    from backends.workers.diffusers.loading import Loaded


async def _serve(given: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def load() -> Loaded:
        from backends.workers.diffusers.loading import load as load_pipeline

        return load_pipeline(given.pipeline, given.device, max_pixels=given.max_pixels, max_steps=given.max_steps)

    def queue(loaded: Loaded) -> ImageQueue:
        from backends.workers.diffusers.image_queue import ImageQueue

        return ImageQueue(loaded.painter, max_waiting=given.max_waiting, max_batch=given.max_batch)

    served = given.served_model_name or [Path(given.pipeline).name]
    server = ImageServer(served, timeout=given.timeout)
    await run(server, load, queue, given.host, given.port, stop, drain=given.drain, lost=DEVICE_LOST)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backends.workers.diffusers", description=__doc__)
    parser.add_argument("--pipeline", default="shoal", help="shoal, the built-in one, or a folder of a saved pipeline")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9004)
    parser.add_argument("--served-model-name", action="append", default=[], help="may be repeated; default: its name")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 …; default: a GPU if there is one")
    parser.add_argument("--max-batch", type=int, default=4, help="images drawn together")
    parser.add_argument("--max-waiting", type=int, default=64, help="requests that may wait; more are refused")
    parser.add_argument("--max-steps", type=int, default=100)
    parser.add_argument("--max-pixels", type=int, help="of one image; default: 1024 x 1024 or the pipeline's own size")
    parser.add_argument("--timeout", type=float, default=300.0, help="longest time of a request, in seconds")
    parser.add_argument("--drain", type=float, default=30.0, help="seconds for running requests to end after SIGTERM")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. 0: ended by a signal; 1: failed; 2: usage."""
    parser = _parser()
    given = parser.parse_args(argv)
    if min(given.max_batch, given.max_steps, given.timeout) <= 0 or min(given.max_waiting, given.drain) < 0:
        parser.error("--max-batch, --max-steps and --timeout must be positive, --max-waiting and --drain not negative")
    try:
        asyncio.run(_serve(given))
    except ImportError as error:
        print(f"The image worker needs more packages: pip install 'seawall[diffusers]' ({error})", file=sys.stderr)
        return 1
    except (OSError, RuntimeError, ValueError) as error:
        print(f"The image worker stopped: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
