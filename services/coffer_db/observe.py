"""The inner HTTP listener of a service: /metrics, /healthz, /readyz, and what else it shows to the monitoring network.

It binds where guests and tenants do not reach. What is measured belongs to the service; here is only what all share.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PORT = 9101
_CHECK_WITHIN = 3.0
_SAMPLE_EVERY = 0.5
_SAMPLES_KEPT = 60
_STUCK = 10.0
"""A loop that was held up this long within the last samples is reported as unhealthy."""

Check = Callable[[], Awaitable[bool]]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


Source = Callable[[], Mapping[tuple[str, ...], float]]
"""Label values, in the order of the labels, to what was counted."""


class Tallies(Collector):
    """Counters kept as plain numbers, read when Prometheus asks: counting costs a dictionary entry, no lock."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], source: Source) -> None:
        self._name, self._text, self._labels, self._source = name, text, labels, source

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in sorted(self._source().items()):
            family.add_metric(values, count)
        yield family


class Levels(Collector):
    """As `Tallies`, for what goes up and down."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...], source: Source) -> None:
        self._name, self._text, self._labels, self._source = name, text, labels, source

    def collect(self) -> Iterable[Metric]:
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for values, level in sorted(self._source().items()):
            family.add_metric(values, level)
        yield family


class LoopLag:
    """How late the event loop runs what is due, over the last half minute."""

    def __init__(self) -> None:
        self._late: deque[float] = deque([0.0], maxlen=_SAMPLES_KEPT)

    @property
    def worst(self) -> float:
        return max(self._late)

    async def sample(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _SAMPLE_EVERY
            await asyncio.sleep(_SAMPLE_EVERY)
            self._late.append(max(loop.time() - due, 0.0))


class Observer:
    """The listener of one process: `start`, `stop`. `registry` is for the service's own metrics."""

    def __init__(
        self,
        service: str,
        *,
        port: int = PORT,
        host: str = "0.0.0.0",
        checks: Mapping[str, Check],
        collectors: Iterable[Collector] = (),
        routes: Mapping[str, Handler] | None = None,
    ) -> None:
        """`checks` say whether the service can do its work (/readyz). Port 0 takes a free one; see `port` then."""
        self.host, self.port = host, port
        self._lag = LoopLag()
        self._checks = dict(checks)
        self._routes = dict(routes or {})
        self._runner: web.AppRunner | None = None
        self._sampler: asyncio.Task[None] | None = None
        self.registry = _registry(service)
        self.registry.register(Levels(
            "coffer_event_loop_lag_seconds", "Worst delay of the event loop in the last 30 s", (),
            lambda: {(): self._lag.worst},
        ))
        for collector in collectors:
            self.registry.register(collector)

    async def start(self) -> None:
        app = web.Application()
        own = {"/metrics": self._metrics, "/healthz": self._healthz, "/readyz": self._readyz}
        for path, handler in {**own, **self._routes}.items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = int(self._runner.addresses[0][1])
        self._sampler = asyncio.create_task(self._lag.sample(), name="loop lag")

    async def stop(self) -> None:
        if self._sampler is not None:
            self._sampler.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _metrics(self, _request: web.Request) -> web.StreamResponse:
        return web.Response(body=generate_latest(self.registry), headers={"Content-Type": CONTENT_TYPE})

    async def _healthz(self, _request: web.Request) -> web.StreamResponse:
        worst = self._lag.worst
        return web.Response(text=f"event loop lag {worst:.3f} s\n", status=200 if worst < _STUCK else 503)

    async def _readyz(self, _request: web.Request) -> web.StreamResponse:
        found = await asyncio.gather(*(_ask(check) for check in self._checks.values()))
        lines = [f"{name}: {'ok' if well else 'not ready'}\n" for name, well in zip(self._checks, found, strict=True)]
        return web.Response(text="".join(lines), status=200 if all(found) else 503)


def _registry(service: str) -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    info = Gauge("coffer_build_info", "What runs here", ("service", "version", "python"), registry=registry)
    info.labels(service, _version(), platform.python_version()).set(1)
    return registry


async def _ask(check: Check) -> bool:
    try:
        async with asyncio.timeout(_CHECK_WITHIN):
            return await check()
    except TimeoutError:
        return False


def _version() -> str:
    try:
        return importlib.metadata.version("coffer-services")
    except importlib.metadata.PackageNotFoundError:
        return "unreleased"
