"""The API's own metrics; the monitoring listener shows them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._requests = Counter(
            "coffer_api_requests_total", "Requests answered", ("method", "route", "status"), registry=registry,
        )
        self._seconds = Histogram(
            "coffer_api_request_duration_seconds", "Time to the last byte", ("method", "route"),
            buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10), registry=registry,
        )
        self.guest_queries = Counter(
            "coffer_api_guest_queries_total", "Queries to guests", ("query", "outcome"), registry=registry,
        )
        self.auth_failures = Counter(
            "coffer_api_auth_failures_total", "Refused credentials", ("reason",), registry=registry,
        )
        self.nats_connected = Gauge(
            "coffer_api_nats_connected", "Whether both connections to NATS are up", registry=registry,
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        if method not in _METHODS:
            method = "other"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
