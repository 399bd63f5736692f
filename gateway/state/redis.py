"""The exchange over Redis or Valkey: one script, one round trip, five times a second; never in a request's way."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import uuid
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import orjson

from gateway.health.checks import CheckResult, Status
from gateway.observe.metrics import StateMetrics
from gateway.state.local import Replica

if TYPE_CHECKING:
    from gateway.runtime import Runtime

INTERVAL = 0.2
#: Seconds that Redis has for an answer; the wait for it is nobody else's.
TIMEOUT = 1.0
#: Seconds between attempts while it does not answer, at most.
_SLOWEST = 2.0

# All keys begin with KEYS[1] and expire. Times are milliseconds by Redis' clock. Of each number that is summed over the
# replicas there is a hash: what each told and when, and their sum, which is kept up by differences and reckoned afresh
# once a second, without those that have gone silent. So an exchange costs the same however many replicas there are.
SCRIPT = """
local input, ns = cjson.decode(ARGV[1]), KEYS[1]
local id = input.id
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local out = {gauges = {}, rates = {}, leases = {}}

for name, value in pairs(input.gauges) do
  local key = ns .. ':sum:' .. name
  local known = redis.call('HMGET', key, id, '=sum', '=count', '=swept')
  local told, sum, count = known[1], tonumber(known[2] or '0'), tonumber(known[3] or '0')
  local swept = tonumber(known[4] or '0')
  if known[2] and math.abs(now - swept) > 1000 then
    told, sum, count, swept = false, 0, 0, now
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
      local number, at = string.match(all[i + 1], '^(%S+) (%d+)$')
      if at and now - tonumber(at) > 3000 then
        redis.call('HDEL', key, all[i])
      elseif at then
        sum, count = sum + tonumber(number), count + 1
        if all[i] == id then told = all[i + 1] end
      end
    end
  end
  if told then sum, count = sum - tonumber(string.match(told, '^%S+')), count - 1 end
  out.gauges[name] = {sum, count}
  local total = string.format('%.3f', value ~= cjson.null and sum + value or sum)
  if value ~= cjson.null then
    redis.call('HSET', key, id, value .. ' ' .. string.format('%.0f', now),
      '=sum', total, '=count', count + 1, '=swept', string.format('%.0f', known[4] and swept or now))
    redis.call('PEXPIRE', key, 5000)
  elseif known[2] then
    if told then redis.call('HDEL', key, id) end
    redis.call('HSET', key, '=sum', total, '=count', count, '=swept', string.format('%.0f', swept))
  end
end

for name, one in pairs(input.rates) do
  local key = ns .. ':rate:' .. name
  local known = tonumber(redis.call('GET', key) or '0')
  local full_at = known > 0 and math.max(now, known) + one[1] * one[2] or now + one[3]
  full_at = math.min(math.max(now, full_at), now + 600000)
  if full_at > now then
    redis.call('SET', key, string.format('%.3f', full_at), 'PX', math.ceil(full_at - now) + 1000)
  end
  out.rates[name] = full_at - now
end

local circuits, revision_key = ns .. ':circuits', ns .. ':revision'
local revision = tonumber(redis.call('GET', revision_key) or '0')
local written = false
for _, one in ipairs(input.circuits) do
  local known = redis.call('HGET', circuits, one.name)
  known = known and cjson.decode(known)
  if one.changed or not known then
    local sequence = math.max(known and known.sequence or 0, one.sequence)
    if one.changed or sequence == 0 then sequence = sequence + 1 end
    redis.call('HSET', circuits, one.name, cjson.encode({
      state = one.state, until_ms = now + one.left, streak = one.streak, sequence = sequence, by = id}))
    written = true
  end
end
if written then
  revision = math.max(now, revision + 1)
  redis.call('SET', revision_key, string.format('%.0f', revision))
  local all = redis.call('HGETALL', circuits)
  for i = 1, #all, 2 do
    if cjson.decode(all[i + 1]).until_ms + 60000 < now then redis.call('HDEL', circuits, all[i]) end
  end
end
redis.call('PEXPIRE', circuits, 3600000)
redis.call('PEXPIRE', revision_key, 3600000)
out.revision = revision
if revision ~= input.revision then
  out.circuits = {}
  local all = redis.call('HGETALL', circuits)
  for i = 1, #all, 2 do
    local one = cjson.decode(all[i + 1])
    out.circuits[#out.circuits + 1] = {name = all[i], state = one.state, left = one.until_ms - now,
      streak = one.streak, sequence = one.sequence, ours = one.by == id}
  end
end

for _, name in ipairs(input.leases) do
  local key = ns .. ':probe:' .. name
  local owner = redis.call('GET', key)
  if not owner or owner == id then redis.call('SET', key, id, 'PX', 1500) end
  out.leases[name] = not owner or owner == id
end
return cjson.encode(out)
"""


def check_client(url: str) -> None:
    """Raises OSError when the client library is not installed, or does not take the URL."""
    if importlib.util.find_spec("redis") is None:
        raise OSError(0, "state.redis needs the client: pip install 'seawall[redis]'", "redis")
    from redis.asyncio.connection import parse_url

    try:
        parse_url(url)
    except ValueError:  # whose text may hold the URL's password
        raise OSError(0, "is not a URL that the client takes", "state.redis") from None


class SharedState:
    """The exchange of one process. `runtime` gives the configuration in effect."""

    def __init__(
        self, url: str, namespace: str, runtime: Callable[[], Runtime], metrics: StateMetrics, log: Any
    ) -> None:
        """Raises OSError as `check_client` does."""
        check_client(url)
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._runtime = runtime
        self._metrics = metrics
        self._log = log
        self._replica = Replica()
        self._id = uuid.uuid4().hex
        self._prefix = f"{{{namespace}}}"  # in braces: one slot of a cluster
        self._redis: Any = Redis.from_url(
            url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT, retry=Retry(NoBackoff(), 0), max_connections=1
        )
        self._script = self._redis.register_script(SCRIPT)
        self._reason = "not asked yet"
        self._answered_at = monotonic()
        self._task: asyncio.Task[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """Starts exchanging."""
        self._task = asyncio.create_task(self._run(), name="shared-state")

    async def stop(self) -> None:
        """Ends it, and counts for the others no more."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            # With a bound: a client library that is just timing out may take the cancellation for its own.
            await asyncio.wait({self._task}, timeout=2 * TIMEOUT)
        self._replica.alone(self._runtime(), monotonic())
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._redis.aclose(), TIMEOUT)

    def check(self) -> CheckResult:
        """For `GET /health`: never critical, as local state takes over."""
        if self._metrics.up:
            details = {"replicas": self._replica.replicas}
            return CheckResult(Status.HEALTHY, f"shared by {self._replica.replicas} processes", details)
        away = monotonic() - self._answered_at
        message = f"Redis has not answered for {away:.0f} s ({self._reason}): each process goes by its own state"
        return CheckResult(Status.DEGRADED, message)

    async def _run(self) -> None:
        pause = INTERVAL
        while not self._stopping:
            started = monotonic()
            try:
                await self._exchange()
            except asyncio.CancelledError:
                raise
            except Exception as error:  # whatever a server or a proxy before it may answer
                self._failed(error)
                pause = min(_SLOWEST, pause * 2)
            else:
                self._succeeded(monotonic() - started)
                pause = INTERVAL
            await asyncio.sleep(max(0.01, started + pause - monotonic()))

    async def _exchange(self) -> None:
        runtime = self._runtime()
        message = {"id": self._id, **self._replica.collect(runtime, monotonic())}
        async with asyncio.timeout(TIMEOUT * 2):
            answer = await self._script(keys=[self._prefix], args=[orjson.dumps(message)])
        self._replica.apply(runtime, orjson.loads(answer), monotonic())

    def _succeeded(self, seconds: float) -> None:
        metrics = self._metrics
        metrics.exchanges["ok"] += 1
        metrics.seconds = seconds
        metrics.replicas = self._replica.replicas
        self._answered_at = monotonic()
        if not metrics.up:
            metrics.up = True
            self._log.info("state_shared", replicas=self._replica.replicas)

    def _failed(self, error: Exception) -> None:
        metrics = self._metrics
        metrics.exchanges["failed"] += 1
        self._reason = type(error).__name__  # its text may hold the address
        self._replica.alone(self._runtime(), monotonic())
        metrics.replicas = 1
        if metrics.up or metrics.exchanges["ok"] + metrics.exchanges["failed"] == 1:
            self._log.warning("state_not_shared", reason=self._reason)
        metrics.up = False
