"""Real processes for tests: started, watched, stopped, frozen, killed, and never left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[2]
_LINES_KEPT = 2000
_POLL = 0.02


class ProcessFailedError(AssertionError):
    """A process ended or stayed silent when it should have been ready; the message holds its output."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def wait_until(condition: Any, timeout: float = 10.0, what: str = "the condition") -> None:
    """Returns as soon as `condition()` is true. Raises TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {timeout} s")
        time.sleep(_POLL)


class Process:
    """A child process in a group of its own, with stdout and stderr captured line by line.

    A context manager: on the way out the whole group is killed and reaped. `signal_group` False sends signals to the
    process alone, for tests of what becomes of its children.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        close_fds: bool = True,
    ) -> None:
        self.argv = list(argv)
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._events: deque[str] = deque(maxlen=_LINES_KEPT)
        self._popen = subprocess.Popen(
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            text=True,
            errors="replace",
            start_new_session=True,
            close_fds=close_fds,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    def python(cls, *arguments: str, **options: Any) -> Self:
        """Runs this interpreter."""
        return cls([sys.executable, *arguments], **options)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    @property
    def output(self) -> str:
        """The last lines of what it has said."""
        return "\n".join(self._lines.copy())

    def wait_for_line(self, text: str, timeout: float = 20.0) -> str:
        """The first line that contains `text`, as soon as it is there. Raises ProcessFailedError."""
        found: list[str] = []

        def said() -> bool:
            found.extend(line for line in self._lines.copy() if text in line)
            return bool(found) or (self.returncode is not None and not self._reader.is_alive())

        self._wait(said, f"a line with {text!r}", timeout)
        if not found:
            raise ProcessFailedError(f"ended with {self.returncode} and never said {text!r}:\n{self.output}")
        return found[0]

    def wait_for_count(self, text: str, count: int, timeout: float = 20.0) -> None:
        """Returns as soon as `count` lines with `text` have been said since the start. Raises ProcessFailedError."""
        self._wait(lambda: self._counted(text) >= count, f"{count} lines with {text!r}", timeout)

    def wait_ready(self, url: str, timeout: float = 20.0) -> None:
        """Returns as soon as a GET of `url` gives 200. Raises ProcessFailedError with the output."""

        def ready() -> bool:
            if self.returncode is not None:
                raise ProcessFailedError(f"ended with {self.returncode} before {url} was ready:\n{self.output}")
            return status_of(url) == 200

        self._wait(ready, url, timeout)

    def wait(self, timeout: float = 10.0) -> int:
        """Its exit status. Raises ProcessFailedError if it does not end."""
        try:
            status = self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessFailedError(f"still running after {timeout} s:\n{self.output}") from None
        self._reader.join(timeout)
        return status

    def signal(self, number: int, *, group: bool = False) -> None:
        """Sends a signal to the process, or to its group."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9, and reap. Its children are left to themselves."""
        self.signal(signal.SIGKILL)
        self._popen.wait()

    def freeze(self) -> None:
        """SIGSTOP: connections are accepted by the kernel, and nothing answers."""
        self.signal(signal.SIGSTOP, group=True)

    def thaw(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT, group=True)

    def close(self) -> None:
        """Kills the whole group and reaps."""
        self.signal(signal.SIGKILL, group=True)
        self._popen.wait()
        self._reader.join(5)
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _counted(self, text: str) -> int:
        return sum(text in line for line in self._events.copy())

    def _wait(self, condition: Any, what: str, timeout: float) -> None:
        try:
            wait_until(condition, timeout, what)
        except TimeoutError as error:
            raise ProcessFailedError(f"{error}; its output:\n{self.output}") from None

    def _read(self) -> None:
        assert self._popen.stdout is not None
        with contextlib.suppress(ValueError):  # closed under us
            for line in self._popen.stdout:
                self._lines.append(line.rstrip("\n"))
                if '"event":"request"' not in line:  # the few that are waited for; requests' lines would push them out
                    self._events.append(line)


def status_of(url: str, timeout: float = 2.0) -> int | None:
    """HTTP status of a GET; None when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            status: int = answer.status
            return status
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except (OSError, ValueError, urllib.error.URLError):
        return None


class FaultProcess(Process):
    """The fault backend as a process of its own; restart it on the same port after a kill with a new one."""

    def __init__(self, *options: str, port: int = 0) -> None:
        script = str(Path(__file__).with_name("fault_backend.py"))
        super().__init__([sys.executable, script, "--port", str(port), "--control-port", "0", *options])
        try:
            _, self.url, self._control_url = self.wait_for_line("ready http").split()
        except BaseException:
            self.close()
            raise
        self.port = int(self.url.rpartition(":")[2])

    def inject(self, *faults: Mapping[str, Any] | str) -> None:
        """Switches on these faults in place of what was on: presets by name, or `{"kind": …, field: value}`."""
        self._control("POST", "/_fault", [{"kind": each} if isinstance(each, str) else each for each in faults])

    def heal(self) -> None:
        """Switches off all faults; whatever hangs goes on."""
        self._control("DELETE", "/_fault")

    def set(self, **settings: Any) -> None:
        """Changes first_token, per_token, concurrency or gauges."""
        self._control("POST", "/_set", settings)

    def requests(self) -> list[dict[str, Any]]:
        """What it has seen, oldest first; see `SeenRequest`."""
        seen: list[dict[str, Any]] = self._control("GET", "/_requests")
        return seen

    def _control(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._control_url + path, data, method=method, headers={"connection": "close"})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.load(answer)


@contextlib.contextmanager
def occupied_port(host: str = "127.0.0.1") -> Iterator[int]:
    """A port that something else listens on."""
    with socket.socket() as sock:
        sock.bind((host, 0))
        sock.listen()
        yield sock.getsockname()[1]
