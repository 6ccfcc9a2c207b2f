"""Prometheus metrics that every server shares: base units, bounded labels."""

from __future__ import annotations

import socketserver
import threading
import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import Counter, Gauge, Histogram, make_wsgi_app

from rewardmesh.v1 import common_pb2 as pb

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_TOKENS = tuple(2**n for n in range(4, 18))
_ITEMS = tuple(2**n for n in range(12))

REQUESTS = Counter("rewardmesh_requests", "Calls answered.", ["service", "method", "code"])
REQUEST_SECONDS = Histogram("rewardmesh_request_seconds", "Duration of calls.", ["service", "method"], buckets=_SECONDS)
ITEMS = Counter("rewardmesh_items", "Items answered; outcome is 'present' or the reason of the absence.", ["service", "model", "outcome"])
QUEUE_SECONDS = Histogram("rewardmesh_queue_seconds", "Time items wait before they are computed.", ["service"], buckets=_SECONDS)
COMPUTE_SECONDS = Histogram("rewardmesh_compute_seconds", "Time a batch takes to compute.", ["service"], buckets=_SECONDS)
BATCH_TOKENS = Histogram("rewardmesh_batch_tokens", "Tokens really computed in a batch, after sharing.", ["service"], buckets=_TOKENS)
BATCH_ITEMS = Histogram("rewardmesh_batch_items", "Items in a batch.", ["service"], buckets=_ITEMS)
QUEUE_TOKENS = Gauge("rewardmesh_queue_tokens", "Tokens waiting in the queue.", ["service"])
QUEUE_ITEMS = Gauge("rewardmesh_queue_items", "Items waiting in the queue, by priority class.", ["service", "priority"])
REFUSED_CALLS = Counter("rewardmesh_refused_calls", "Calls refused at the door; reason is queue_full or deadline.", ["service", "reason"])
REFUSED_ITEMS = Counter(
    "rewardmesh_refused_items", "Items of refused calls, as far as they were counted before the refusal.", ["service", "reason"]
)
TENANT_TOKENS = Counter(
    "rewardmesh_tenant_tokens", "Tokens computed for each tenant that has a configured weight, and for all others.", ["service", "tenant"]
)
INFLIGHT_ITEMS = Gauge("rewardmesh_inflight_items", "Items accepted and not yet answered.", ["service"])
MODEL_INFO = Gauge("rewardmesh_model_info", "1 for the active version of each model.", ["service", "model", "version", "fingerprint"])
CACHE_HITS = Counter(
    "rewardmesh_cache_hits",
    "Items that needed no computing of their own; tier is memory, redis, or flight (another caller's computation).",
    ["service", "tier"],
)
CACHE_MISSES = Counter("rewardmesh_cache_misses", "Items with an identity that had to be computed.", ["service"])
CACHE_BYTES = Gauge("rewardmesh_cache_bytes", "Memory that kept results take, bookkeeping included.", ["service"])
CACHE_ERRORS = Counter("rewardmesh_cache_errors", "Failed, slow or corrupt exchanges with the shared cache.", ["service"])
REWARD = Histogram("rewardmesh_reward", "Rewards given.", ["model"], buckets=(-10, -5, -2, -1, -0.5, 0, 0.25, 0.5, 0.75, 1, 2, 5, 10))


def outcome_label(absence: pb.Absence | None) -> str:
    """'present', or the absence's reason in lower case without its prefix."""
    if absence is None:
        return "present"
    return pb.AbsenceReason.Name(absence.reason).removeprefix("ABSENCE_REASON_").lower()


def count_outcome(service: str, model: str, absence: pb.Absence | None) -> None:
    """Count one answered item."""
    ITEMS.labels(service, model, outcome_label(absence)).inc()


def count_outcomes(service: str, model: str, absences: Iterable[pb.Absence | None]) -> None:
    """Count the answered items of a call."""
    for outcome, number in Counts(map(outcome_label, absences)).items():
        ITEMS.labels(service, model, outcome).inc(number)


def start_metrics_server(host: str, port: int) -> tuple[int, Callable[[], None]]:
    """Serve the metrics as text; returns the bound port and a function that stops serving."""
    server = make_server(host, port, make_wsgi_app(), _ThreadingServer, _QuietHandler)
    # prometheus_client's own server takes up to half a second to stop.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="metrics", daemon=True)
    thread.start()

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return server.server_port, close


class _ThreadingServer(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """A scrape is no news."""


class Stopwatch:
    """Monotonic seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Elapsed seconds."""
        return time.monotonic() - self._began
