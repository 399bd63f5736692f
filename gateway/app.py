"""The running gateway: listeners, the data path, the operations' server, reload and drain."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from aiohttp import web

from gateway import ops, paths
from gateway.admin.admin import Admin
from gateway.admin.state import Workers
from gateway.config import Config, ConfigError, load_config, load_text
from gateway.config.base import split_listen
from gateway.config.diff import diff, log_reload
from gateway.config.loader import read
from gateway.descriptors import allowed, for_clients, raise_limit
from gateway.discovery.discovery import Discovery
from gateway.discovery.discovery import check as check_discovery
from gateway.file_stamp import WatchedFile
from gateway.health.checks import workers_check
from gateway.health.monitor import Monitor
from gateway.http.connection import ClientConnection
from gateway.http.message import Request
from gateway.http.server import Give, Server, ServerLimits
from gateway.identity import correlation_id
from gateway.long_lived import LongLived
from gateway.observe.alerts import Alerts
from gateway.observe.conditions import Conditions
from gateway.observe.error_stats import ErrorStats
from gateway.observe.logs import configure
from gateway.observe.metrics import Metrics, StateMetrics
from gateway.observe.request_log import RequestLog
from gateway.observe.tracing import configure as configure_tracing
from gateway.pipeline import Pipeline
from gateway.processes.peers import Alone, Peers
from gateway.processes.sockets import bind, inherited
from gateway.runtime import Runtime, build
from gateway.services import Services
from gateway.state.redis import SharedState, check_client
from gateway.tls import TlsFiles, in_use, server_files

#: Seconds between looks at the configuration file, and at connections to backends that nobody uses.
WATCH_INTERVAL = 1.0


class Gateway:
    """One process that serves one configuration at a time."""

    def __init__(
        self, config: Config, path: Path | None = None, peers: Peers | None = None, log_lock: int | None = None
    ) -> None:
        """`peers` are the other workers where there are several; `log_lock` is the file that their logs lock on."""
        self.loop = asyncio.get_running_loop()
        self.path = path
        self.peers: Peers = peers or Alone()
        self.draining = False
        self.started = monotonic()
        self._random = random.Random()
        self.metrics = Metrics([route.name for route in config.routes], list(config.backends))
        log = config.observability.log
        number = self.peers.number
        logs = configure(format=log.format, level=log.level, prompts=log.prompts, lock=log_lock, worker=number)
        self.metrics.log_lines_dropped = lambda: logs.dropped
        tracing = configure_tracing(config.observability.otlp, logs.logger)
        if tracing is not None:
            self.metrics.trace_spans = tracing.counts
        self.services = Services(self.metrics, ErrorStats(), RequestLog(), logs, tracing=tracing)
        self.discovery = Discovery(self._discovered, self.services.log)
        self.metrics.discovered = self.discovery.counts
        self.runtime = build(config, None, self._random)
        self.metrics.reload([route.name for route in config.routes], list(self.runtime.endpoints))
        self.pipeline = Pipeline(self.runtime, self.services)
        self.monitor = Monitor(self.runtime, self.metrics, self.services.log)
        self._bind_metrics()
        self.admin = Admin(self)
        conditions = Conditions(self.metrics, self.services.errors)
        # Of several workers one sends: the same alert from each would be noise.
        targets = config.alerts.targets if self.peers.number in (None, 0) else ()
        self.alerts = Alerts(targets, conditions, lambda: self.runtime, self.services.log, self.services.clock)
        self.metrics.alert_messages = self.alerts.counts
        server = config.server
        limits = ServerLimits(
            max_body=server.max_body,
            max_buffered=server.max_buffered,
            max_connections=for_clients(config, allowed()),
            max_header_size=server.max_header_size,
            header_timeout=server.timeouts.header,
            body_timeout=server.timeouts.body,
            idle_timeout=server.timeouts.idle,
        )
        if limits.max_connections < server.max_connections:
            self.services.log.warning("fewer_connections", max_connections=limits.max_connections, open_files=allowed())
        self.server = Server(limits, self.pipeline.handle, self.pipeline.refuse, self._take_over)
        self.server.known = self.pipeline.known
        self._ops_runner = ops.runner(self)
        self._ops: web.Server | None = None
        self._separate = False  # whether operators have a listener of their own: a reload opens none and closes none
        self._watcher: asyncio.Task[None] | None = None
        self._file = WatchedFile(path)
        self._hurry = asyncio.Event()
        self._tls: TlsFiles | None = None
        self.long_lived: LongLived | None = None  # set by who owns the process
        self._shared: SharedState | None = None
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self, sock: socket.socket, admin_sock: socket.socket | None = None) -> None:
        """Starts serving on a bound socket. Raises OSError when a TLS file cannot be read.

        `admin_sock` is the operators' listener where another process opens it, for all workers.
        """
        config = self.runtime.config
        await self._ops_runner.setup()
        self._ops = self._ops_runner.server
        admin = config.server.admin
        alone = self.peers.number is None
        if admin_sock is not None:
            await web.SockSite(self._ops_runner, admin_sock).start()
        elif alone and admin.listen is not None:
            host, port = split_listen(admin.listen)
            await web.TCPSite(self._ops_runner, host, port).start()
        self._separate = admin_sock is not None or (alone and admin.listen is not None)
        await self.monitor.start()
        self._share(config)
        check_discovery(config)
        self.discovery.update(config)
        await self.discovery.first()
        await asyncio.sleep(0)  # for what was found to be taken over
        self.admin.start()
        self.alerts.start()
        if config.server.tls is not None:
            self._tls = server_files(config.server.tls)
        await self.server.listen(sock, None if self._tls is None else self._tls.context)
        self._watcher = self.loop.create_task(self._watch())

    async def stop(self, timeout: float | None = None, delay: float = 0.0) -> None:
        """Drains: not ready any more, and for `delay` seconds still serving; then stops accepting and lets what runs
        finish; `timeout` seconds after its beginning closes everything."""
        self.draining = True
        if self._watcher is not None:
            self._watcher.cancel()
        limit = self.runtime.config.server.drain if timeout is None else timeout
        delay = min(delay, limit)
        self.server.begin_drain(delay)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), delay)
        await self.server.drain(0.0 if self._hurry.is_set() else limit - delay)
        await self._close()

    async def leave(self, give: Give | None) -> None:
        """Stops with other workers there to go on: they get new connections, and through `give` the idle ones.

        Without `give` (TLS: a session cannot move) clients are asked to close, in their own time.
        """
        if self._watcher is not None:
            self._watcher.cancel()
        limit = self.runtime.config.server.drain
        if give is None:
            self.server.stop_accepting()
            self.server.begin_drain(limit)
        else:
            self.server.give_away(give)
        await self.server.drain(0.0 if self._hurry.is_set() else limit)
        await self._close()

    def _share(self, config: Config) -> None:
        """Shares state with other replicas as the configuration says. Raises OSError without the client for it."""
        if self._shared is not None:
            stopping = self.loop.create_task(self._shared.stop())
            self._ending.add(stopping)
            stopping.add_done_callback(self._ending.discard)
        self._shared = self.metrics.state = None
        self.monitor.unregister("state")
        url = config.state.redis
        if url is not None:
            self.metrics.state = StateMetrics()
            self._shared = SharedState(
                url.get_secret_value(),
                config.state.namespace,
                lambda: self.runtime,
                self.metrics.state,
                self.services.log,
            )
            self.monitor.register("state", self._shared.check)
            self._shared.start()

    async def _close(self) -> None:
        await self.discovery.stop()
        if self._shared is not None:
            await self._shared.stop()
        await self.monitor.stop()
        await self.admin.close()
        await self.alerts.stop()
        await self._ops_runner.cleanup()
        for endpoint in self.runtime.endpoints.values():
            endpoint.pool.close()
        self.services.settle()
        if self.services.tracing is not None:
            await asyncio.to_thread(self.services.tracing.close)
        self.services.logs.close()

    def hurry(self) -> None:
        """Ends a drain now: answers under way end with an error that says so."""
        self._hurry.set()
        self.server.cut_off()

    def reload(self) -> bool:
        """Takes over the configuration file as it is now, whole or not at all. Returns whether it was taken."""
        log = self.services.log
        if self.path is None:
            return False
        try:
            self.take(load_config(self.path))
        except ConfigError as error:
            self.metrics.reloaded(False)
            log.error("reload_refused", problems=[str(problem) for problem in error.problems][:20])
            return False
        except OSError as error:
            self.metrics.reloaded(False)
            log.error("reload_refused", problems=[f"{error.filename}: {error.strerror}"])
            return False
        return True

    def take(self, config: Config) -> None:
        """Serves another configuration from now on. Raises OSError when one of its files cannot be read."""
        before = self.runtime.config
        self.swap(self.prepare(config))
        log_reload(self.services.log, diff(before, config))

    def prepare(self, config: Config) -> Runtime:
        """Builds another configuration beside the one that is served. Raises OSError when a file cannot be read."""
        if config.state.redis is not None:
            check_client(config.state.redis.get_secret_value())
        check_discovery(config)
        return build(config, self.runtime, self._random, self.discovery.found)

    def swap(self, runtime: Runtime) -> None:
        """Serves what was prepared; requests under way keep the old one."""
        before, config = self.runtime.config, runtime.config
        self._serve(runtime)
        if before.state != config.state:
            self._share(config)
        if self.peers.number in (None, 0):
            self.alerts.retarget(config.alerts.targets)
        self.discovery.update(config)
        if runtime.found is not self.discovery.found:  # it has changed since this one was prepared
            self._discovered()
        self.metrics.reloaded(True)

    def _discovered(self) -> None:
        """Endpoints have come or gone: the same configuration with others. What stays keeps its state."""
        self._serve(build(self.runtime.config, self.runtime, self._random, self.discovery.found))

    def _serve(self, runtime: Runtime) -> None:
        before, self.runtime = self.runtime, runtime
        runtime.keep_times()
        if self.long_lived is not None:
            self.long_lived.changed(monotonic())
        self.metrics.reload([route.name for route in runtime.config.routes], list(runtime.endpoints))
        self.pipeline.runtime = runtime
        self._bind_metrics()
        self.monitor.update(runtime)
        for name, endpoint in before.endpoints.items():
            if runtime.endpoints.get(name) is not endpoint:
                endpoint.pool.close()

    def workers_changed(self, serving: int, wanted: int, restarts: int) -> None:
        """How many worker processes serve, of how many; `restarts` after one has died."""
        self.metrics.workers = serving
        self.metrics.worker_restarts = restarts
        self.monitor.register("workers", workers_check(serving, wanted))

    def _bind_metrics(self) -> None:
        for name, endpoint in self.runtime.endpoints.items():
            endpoint.bind_metrics(self.metrics.endpoint(name), monotonic)
        for route in self.runtime.routes.routes:
            self.metrics.route(route.name).queue_length = route.room.__len__
            self.metrics.route(route.name).degradation = route.degradation_level

    async def _watch(self) -> None:
        """All that is looked after about once a second. A look that fails ends neither the others nor the next one."""
        looks = (self.monitor.weigh, self._renew_certificates, self._collect, self._close_unused, self._reload_changed)
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            now = monotonic()
            for look in looks:
                try:
                    look(now)
                except Exception:
                    self.services.log.exception("internal_error", part=look.__name__)

    def _collect(self, now: float) -> None:
        if self.long_lived is not None:
            self.long_lived.look(now)

    def _close_unused(self, now: float) -> None:
        for endpoint in self.runtime.endpoints.values():
            endpoint.pool.close_unused(now)

    def _reload_changed(self, now: float) -> None:
        alone = self.peers.number is None  # of several workers, the parent watches
        if alone and self.runtime.config.server.watch and self._file.changed():
            self.reload()

    def _renew_certificates(self, now: float) -> None:
        for files in (*(() if self._tls is None else (self._tls,)), *in_use()):
            try:
                if files.renew():
                    self.services.log.info("certificates_renewed", files=files.names)
            except OSError as error:
                reason = error.strerror or str(error)
                self.services.log.error("certificates_refused", files=files.names, reason=reason)

    def _take_over(self, connection: ClientConnection, request: Request) -> bool:
        """Hands connections that ask for an operations' path to aiohttp, for that one request."""
        if not paths.is_operations(request.path) or self._ops is None:
            return False
        if not ops.belongs_here(request.path, self._separate):
            return False
        transport, request = connection.release()
        self.server.lend(transport, ops.patience(request.path))
        handler = self._ops()
        transport.set_protocol(handler)
        handler.connection_made(transport)
        handler.data_received(ops.as_bytes(request, correlation_id(request.headers)))
        return True


async def serve(
    config_path: Path,
    port: int | None,
    on_ready: Callable[[str], None] | None = None,
    workers: Workers | None = None,
) -> int:
    """Runs the gateway until SIGTERM or SIGINT. Returns the exit code: 2 bad configuration, 1 port in use.

    `workers` gives the snapshots of model servers that this process supervises, for operators to see.
    """
    raise_limit()
    try:
        text = read(config_path)
        config = load_text(text, str(config_path))
    except ConfigError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 2
    if config.server.workers > 1:
        from gateway.processes.start import serve_with_workers

        return await serve_with_workers(config_path, text, config, port, on_ready)
    return await _serve_alone(config_path, config, port, on_ready, workers)


async def _serve_alone(
    config_path: Path,
    config: Config,
    port: int | None,
    on_ready: Callable[[str], None] | None,
    workers: Workers | None,
) -> int:
    host, configured = config.server.host, config.server.port
    try:
        sock = inherited() or bind(host, configured if port is None else port)
    except OSError as error:
        print(f"cannot listen on {host}:{configured if port is None else port}: {error.strerror}", file=sys.stderr)
        return 1
    loop = asyncio.get_running_loop()
    try:
        gateway = Gateway(config, config_path)
        gateway.admin.workers = workers
        await gateway.start(sock)
        gateway.long_lived = LongLived()
    except OSError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        return 1
    stopping: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.put_nowait, number)
    loop.add_signal_handler(signal.SIGHUP, gateway.reload)
    loop.add_signal_handler(signal.SIGUSR2, lambda: gateway.services.log.warning("no_rolling_restart", workers=1))
    url = url_of(config, sock)
    gateway.services.log.info("listening", url=url, backends=list(config.backends))
    if on_ready is not None:
        on_ready(url)
    # Who stops it by hand does not want to wait for load balancers to notice.
    delay = gateway.runtime.config.server.drain_delay if await stopping.get() is signal.SIGTERM else 0.0
    drain = gateway.runtime.config.server.drain
    gateway.services.log.info("draining", in_flight=gateway.services.in_flight, at_most=drain)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, gateway.hurry)
    await gateway.stop(delay=delay)
    return 0


def url_of(config: Config, sock: socket.socket) -> str:
    """Where clients find the listener."""
    scheme = "http" if config.server.tls is None else "https"
    host = f"[{config.server.host}]" if ":" in config.server.host else config.server.host
    return f"{scheme}://{host}:{sock.getsockname()[1]}"


def run(config_path: Path, port: int | None) -> int:
    """`seawall serve`: the gateway on uvloop where it is installed."""
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(serve(config_path, port))
    return 0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, or None for asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
