"""What is counted, as plain numbers.

Rules of this file: the hot path adds to integers and lists and knows nothing of Prometheus;
`families.py` turns them into metric families when somebody scrapes. A meter is found by name once,
at load, and outlives reloads. No label takes more than `max_label_values` values, for what a client
or a file can invent must not fill the memory of two machines: the rest is folded into `_other` and
counted in `gateway_label_values_dropped_total`.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING

from gateway.clock import Clock
from gateway.observe import families
from gateway.observe.entrance import Entrance
from gateway.observe.events import Events
from gateway.observe.families import CLASSES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gateway.config import model
    from gateway.exchange import Exchange
    from gateway.upstream.upstream import Upstream

OTHER = "_other"
"""The label value for all that is not told apart: unknown methods, values beyond the cap."""
UNMATCHED = "_none"
"""The route of requests that no route takes."""
METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)
OVERHEAD_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


FOLDED_AT = 1024
"""Observations that may be pending, for memory's sake; a power of two."""
_folding = threading.Lock()


class Histogram:
    """Observations sorted into buckets: later, many at a time, for to append a number is cheap."""

    __slots__ = ("_counts", "_total", "bounds", "pending")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.pending: list[float] = []
        """What was observed and is not sorted in yet; the same list for ever, so that its `append` may be kept."""
        self.reset(bounds)

    def reset(self, bounds: Sequence[float]) -> None:
        """Begin anew with other bounds (seconds, ascending)."""
        self.pending.clear()
        self.bounds = tuple(bounds)
        self._counts = [0] * (len(self.bounds) + 1)
        self._total = 0.0

    def observe(self, seconds: float) -> None:
        """Add one observation."""
        self.pending.append(seconds)
        if len(self.pending) >= FOLDED_AT:
            self.fold()

    def read(self) -> tuple[list[int], float]:
        """(counts, sum of all): `counts[i]` holds those up to `bounds[i]` and above the bound before it."""
        with _folding:
            self._fold()
            return self._counts[:], self._total

    def fold(self) -> None:
        """Sort in what is pending. Whoever appends to `pending` calls it once in a while."""
        with _folding:
            self._fold()

    def _fold(self) -> None:
        # A scrape does it in another thread while the loop appends: what comes behind `count` stays for the next time.
        count = len(self.pending)
        values = sorted(self.pending[:count])
        del self.pending[:count]
        self._total += sum(values)
        before = 0
        for index, bound in enumerate(self.bounds):
            upto = bisect_right(values, bound)
            self._counts[index] += upto - before
            before = upto
        self._counts[-1] += count - before


class Cell:
    """Requests of one method, status and source."""

    __slots__ = ("count", "durations", "seconds")

    def __init__(self, durations: Histogram) -> None:
        self.count = 0
        self.durations = durations
        """Shared by all cells of the same method and status class."""
        self.seconds = durations.pending


class RouteMeter:
    """What one route has done."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self.name = name
        self._metrics = metrics
        self.in_flight = 0
        self.websockets = 0
        self.seats: Counter[str] = Counter()
        """Open and beginning WebSockets by consumer, where `websocket.per_consumer` limits them."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.errors: Counter[str] = Counter()
        self.reported: Counter[str] = Counter()
        """What a policy in report mode has let pass, by the reason for which it would have been refused."""
        self.shed: Counter[str] = Counter()
        """Refused while the event loop was late, by the route's importance."""
        self.mirrored: Counter[str] = Counter()
        """Copies, by result: match, mismatch, failed, dropped."""
        self.mismatches: Counter[str] = Counter()
        """What differed, by kind: status, header, body."""
        self.cells: dict[tuple[str, int | str, str], Cell] = {}
        self.durations: dict[tuple[str, str], Histogram] = {}
        self.overhead = Histogram(OVERHEAD_BUCKETS)
        self._overheads = self.overhead.pending

    def __repr__(self) -> str:
        return f"<RouteMeter {self.name}: {self.in_flight} in flight>"

    def begin(self) -> None:
        """A request has been given to this route."""
        self.in_flight += 1

    def upgraded(self, exchange: Exchange) -> None:
        """The 101 is out, `exchange.status` and `exchange.replied_at` are set: the request counts
        now, not at its end.
        """
        self.in_flight -= 1
        self.websockets += 1
        self._count(exchange, exchange.replied_at)

    def finish(self, exchange: Exchange) -> None:
        """The exchange has ended and `exchange.ended` is set."""
        if exchange.status == 101:  # `upgraded` has counted it
            self.websockets -= 1
        else:
            self.in_flight -= 1
            self._count(exchange, exchange.ended)
        if exchange.bytes_in:
            self.bytes_in += exchange.bytes_in
        if exchange.bytes_out:
            self.bytes_out += exchange.bytes_out
        if exchange.reason:
            self.errors[exchange.reason] += 1
        if exchange.report:
            self.reported.update(exchange.report)

    def _count(self, exchange: Exchange, until: float) -> None:
        began, status = exchange.began, exchange.status
        cell = self.cells.get((exchange.method, status, exchange.source))
        if cell is None:
            cell = self._cell(exchange.method, status, exchange.source)
        cell.count += 1
        cell.seconds.append(until - began)
        if exchange.head_at:
            self._overheads.append(
                exchange.sent_at - began + exchange.replied_at - exchange.head_at
            )
        if not cell.count % FOLDED_AT:
            cell.durations.fold()
            self.overhead.fold()

    def _cell(self, method: str, status: int, source: str) -> Cell:
        """The cell where there is none under the words as they came; under their bounded form there
        may be.
        """
        method = method if method in METHODS else OTHER
        key = (method, self._metrics.bounded_status(status), source)
        cell = self.cells.get(key)
        if cell is None:
            classed = (method, CLASSES[status // 100])
            durations = self.durations.get(classed)
            if durations is None:
                durations = self.durations[classed] = Histogram(self._metrics.buckets)
            cell = self.cells[key] = Cell(durations)
        return cell


class UnmatchedMeter(RouteMeter):
    """Requests that no route takes: no stack ever begins them, so there is nothing in flight."""

    def begin(self) -> None:
        """Nothing to do."""

    def finish(self, exchange: Exchange) -> None:
        """The exchange has ended."""
        super().finish(exchange)
        self.in_flight = 0


class TargetMeter:
    """Tries at one target, or at all those that share a label."""

    __slots__ = ("by_class", "checks", "ejections", "label")

    def __init__(self, label: str) -> None:
        self.label = label
        self.by_class = [0] * len(CLASSES)
        """Tries by status // 100 of what came back; 0: nothing did."""
        self.checks: Counter[str] = Counter()
        """Active checks, by result: pass, fail, timeout."""
        self.ejections = 0


class UpstreamMeter:
    """What one upstream has done."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self.name = name
        self._metrics = metrics
        self.events = metrics.events
        self.opened = 0
        self.reused = 0
        self.budget_exhausted = 0
        self.source: Upstream | None = None
        """Set by the upstream itself: weights, requests in flight and connections are read from it
        at a scrape.
        """
        self.targets: dict[str, TargetMeter] = {}
        """By name, of the present targets; beyond the cap several share one."""
        self._gone: dict[str, TargetMeter] = {}
        """Of targets that have left, in that order: a counter goes on where its target comes back."""
        self._other = TargetMeter(OTHER)
        self.hedges: Counter[str] = Counter()
        """By outcome: won, lost, not_sent."""
        self.retries: Counter[tuple[str, str]] = Counter()
        self.heads: dict[str, Histogram] = {}
        self.last_bytes = Histogram(metrics.buckets)
        self.waits = Histogram(metrics.buckets)

    def __repr__(self) -> str:
        return f"<UpstreamMeter {self.name}: {self.opened} opened, {self.reused} reused>"

    def target(self, name: str) -> TargetMeter:
        """The meter of one target, host:port as configured. To be kept, not looked up for each
        request.
        """
        meter = self.targets.get(name)
        if meter is None:
            # A try may end when its target has left: that is counted, and shown if it comes back.
            meter = self._gone[name] if name in self._gone else self._enter(name)
        return meter

    def present(self, names: Iterable[str]) -> None:
        """These are the targets now: others leave the exposition, and their labels are free."""
        wanted = dict.fromkeys(names)
        for name in [name for name in self.targets if name not in wanted]:
            meter = self.targets.pop(name)
            if meter.label != OTHER:
                self._metrics.free_target(name)
                self._gone[name] = meter
        while len(self._gone) > self._metrics.most:
            del self._gone[next(iter(self._gone))]
        for name in wanted:
            if name not in self.targets:
                self._enter(name)

    def _enter(self, name: str) -> TargetMeter:
        label = self._metrics.bounded_target(name)
        if label == OTHER:
            meter = self._other
        elif name in self._gone:
            meter = self._gone.pop(name)
        else:
            meter = TargetMeter(label)
        self.targets[name] = meter
        return meter

    def waited(self, seconds: float) -> None:
        """A request has waited for a connection."""
        self.waits.observe(seconds)

    def head(self, seconds: float, status: int) -> None:
        """A final response head came, `seconds` after the request was written."""
        word = CLASSES[status // 100]
        histogram = self.heads.get(word)
        if histogram is None:
            histogram = self.heads[word] = Histogram(self._metrics.buckets)
        pending = histogram.pending
        pending.append(seconds)
        if len(pending) >= FOLDED_AT:  # here too: an answer that is broken off has no last byte
            histogram.fold()

    def last_byte(self, seconds: float) -> None:
        """A response is complete, `seconds` after the request was written."""
        pending = self.last_bytes.pending
        pending.append(seconds)
        if len(pending) >= FOLDED_AT:
            self.last_bytes.fold()

    def retried(self, reason: str, outcome: str) -> None:
        """A try failed for `reason`. `outcome`: success, failure, no_budget, not_replayable."""
        self.retries[reason, outcome] += 1


class Metrics:
    """All that one worker counts."""

    def __init__(self, settings: model.Metrics, events: Events | None = None) -> None:
        self.events = Events(Clock().wall) if events is None else events
        """What has changed, for those who count and know nothing else of the worker."""
        self.buckets: tuple[float, ...] = settings.buckets
        self.most = settings.max_label_values
        """Values that a label may take."""
        self.routes: dict[str, RouteMeter] = {}
        self.upstreams: dict[str, UpstreamMeter] = {}
        self.entrance = Entrance()
        self._statuses: set[int] = set()
        self._targets: Counter[str] = Counter()
        """Names of present targets, and how many upstreams have them."""
        self.access_log_dropped = 0
        self.label_values_dropped: Counter[str] = Counter()
        """By metric: how often a value was folded into `_other`."""
        self.loop_lag = Histogram(LAG_BUCKETS)
        self.loop = "asyncio"
        """Which event loop runs: asyncio or uvloop."""
        self.reloads = {"success": 0, "failure": 0}
        self.last_reload_successful = True
        self.last_success = 0.0
        self.generation = 0
        self.digest = ""
        self.registry = families.registry(self)
        """Also for what others want to add, such as plugins."""

    def apply(self, settings: model.Metrics) -> None:
        """Take new settings at a reload. Other buckets begin their histograms anew: old counts do
        not fit them.
        """
        self.most = settings.max_label_values
        if settings.buckets == self.buckets:
            return
        self.buckets = settings.buckets
        for route in self.routes.values():
            for histogram in route.durations.values():
                histogram.reset(self.buckets)
        for upstream in self.upstreams.values():
            for histogram in (*upstream.heads.values(), upstream.last_bytes, upstream.waits):
                histogram.reset(self.buckets)

    def route(self, name: str) -> RouteMeter:
        """The meter of a route, the same for every generation; `_none` is that of requests that no
        route takes.
        """
        meter = self.routes.get(name)
        if meter is None:
            if name == UNMATCHED:
                meter = UnmatchedMeter(name, self)
            else:
                if len(self.routes) >= self.most:
                    self.label_values_dropped["gateway_requests_total"] += 1
                    name = OTHER
                meter = self.routes.get(name) or RouteMeter(name, self)
            self.routes[name] = meter
        return meter

    def upstream(self, name: str) -> UpstreamMeter:
        """The meter of an upstream, the same for every generation."""
        meter = self.upstreams.get(name)
        if meter is None:
            if len(self.upstreams) >= self.most:
                self.label_values_dropped["gateway_upstream_requests_total"] += 1
                name = OTHER
            meter = self.upstreams.get(name) or UpstreamMeter(name, self)
            self.upstreams[name] = meter
        return meter

    def loaded(self, generation: int, digest: str, at: float, *, reload: bool) -> None:
        """A configuration serves since `at` (Unix seconds): the first one, or one that a reload has
        brought.
        """
        self.generation = generation
        self.digest = digest
        self.last_success = at
        self.last_reload_successful = True
        if reload:
            self.reloads["success"] += 1

    def reload_failed(self) -> None:
        """A reload has failed; the old configuration serves on."""
        self.reloads["failure"] += 1
        self.last_reload_successful = False

    def bounded_status(self, status: int) -> int | str:
        """`status`, or `_other` where it would be one value too many."""
        if status not in self._statuses:
            if len(self._statuses) >= self.most:
                self.label_values_dropped["gateway_requests_total"] += 1
                return OTHER
            self._statuses.add(status)
        return status

    def bounded_target(self, name: str) -> str:
        """`name` of a target that has come, or `_other` where it would be one value too many."""
        if name not in self._targets and len(self._targets) >= self.most:
            self.label_values_dropped["gateway_upstream_requests_total"] += 1
            return OTHER
        self._targets[name] += 1
        return name

    def free_target(self, name: str) -> None:
        """A target that `bounded_target` has let in has left one upstream."""
        self._targets[name] -= 1
        if not self._targets[name]:
            del self._targets[name]

    def exposition(self, accept: str | None) -> tuple[bytes, str]:
        """The page that a scraper reads, and its content type.

        OpenMetrics where `accept` (the request's field) prefers it, else Prometheus text.

        May be called in another thread: counting goes on meanwhile.
        """
        return families.exposition(self.registry, accept)
