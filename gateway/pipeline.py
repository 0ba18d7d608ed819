"""The stages that a request for a route passes, in words: what `gateway pipeline` prints.

Rules of this file: words for people, made of a route's effective policies and of the settings of its
upstreams. The order is that of the data path. What is off by default and was not asked for has no
stage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gateway.config import effective, model, sign_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

S = TypeVar("S", model.Upstream, model.Policies)

_DURATIONS = frozenset(
    (
        *("pool_wait", "connect", "first_byte", "idle", "total", "per_try", "max_age"),
        *("interval", "interval_down", "timeout", "window", "base", "open", "queue_timeout"),
        *("slow_start", "ttl", "refresh", "time", "after"),
    )
)
"""Last words of keys whose values are seconds."""
_LONGEST = "eject.max"
_SIZES = frozenset(("body.max", "retry.replay_body", "buffer.request", "buffer.response"))
_SHARES = frozenset(("budget", "panic", "error_ratio", "failure_ratio"))
"""From 0 to 1."""
_PERCENTS = frozenset(("percent", "max_percent"))


def pipeline(
    route: effective.Route, config: effective.Config | None = None
) -> tuple[tuple[str, str], ...]:
    """(stage, what it does for this route), in the order in which a request meets them.

    `config`: the one that the route is of; without it, nothing is said of its upstreams' settings.
    """
    policies = route.policies
    most = "any size" if policies.body.max is None else f"at most {size(policies.body.max)}"
    stages = [
        ("limits", f"head within server.limits, body of {most}{_only_shown(policies.body)}"),
        ("client", "address, scheme and host, from trusted proxies only; request id"),
        (
            "normalise",
            "refuse or resolve a path that can be read two ways (server.ambiguous_paths)",
        ),
        ("route", _matcher(route)),
    ]
    overload = None if config is None else config.server.overload
    if overload is not None and policies.importance in overload.shed:
        late = f"{duration(overload.loop_lag)} late for {duration(overload.for_)}"
        stages.append(("overload", f"503 while the event loop is {late}"))
    stages += _entrance(route, config)
    if policies.fault is not None:
        stages.append(("fault", ", ".join(_fault_words(policies.fault))))
    if isinstance(route.answer, effective.Forward):
        stages += _forward_stages(route, route.answer, config)
    else:
        stages.append(("answer", _answer_words(route.answer)))
    edits = list(_edit_words(policies.headers.response))
    if policies.headers.response.rewrite_location:
        edits.append("Location made public")
    edits += _browser_words(policies)
    stages.append(("response transform", ", ".join(edits) or "nothing"))
    stages.append(("metrics", f"counted as route {route.name}"))
    stages.append(("access log", "one line" if policies.access_log else "off"))
    return tuple(stages)


def _matcher(route: effective.Route) -> str:
    match = route.match
    path = match.path.text if match.path.regex is None else f"regex {match.path.regex}"
    when = [f"header {n}" for n in match.when.header] + [f"query {n}" for n in match.when.query]
    when += [f"cookie {n}" for n in match.when.cookie]
    when += [n for n in ("client_ip", "scheme", "listener") if getattr(match.when, n)]
    words = [", ".join(match.methods) or "any method", " or ".join(match.host) or "any host"]
    words.append(path or "/*")
    return " ".join(words + ([f"when {', '.join(when)}"] if when else []))


def _entrance(route: effective.Route, config: effective.Config | None) -> list[tuple[str, str]]:
    """Who may come in, and how fast: what needs no credentials first."""
    policies = route.policies
    allow, cors = policies.allow, policies.cors
    early = [(name, limit) for name, limit in route.rate_limits if not limit.of_identity]
    late = [(name, limit) for name, limit in route.rate_limits if limit.of_identity]
    report = " (report: all pass)" if allow is not None and allow.mode == "report" else ""
    addresses = who = ""
    if allow is not None:
        addresses = "; ".join(_address_words(allow))
        who = "; ".join(_who_words(allow))
    stages = [
        ("ip rules", addresses and addresses + report),
        ("CORS preflight", "" if cors is None else _cors_words(cors)),
        ("rate limit by address", "; ".join(_limit_words(early))),
        ("auth", " or ".join(policies.auth or ())),
        ("csrf", _csrf_words(route, config)),
        ("authorise", who and who + report),
        ("rate limit by identity", "; ".join(_limit_words(late))),
    ]
    if policies.auth and not policies.forward_credentials:
        stages.append(("credentials", "stay with the gateway"))
    return [(stage, does) for stage, does in stages if does]


def _address_words(allow: model.Allow) -> Iterator[str]:
    if allow.ip:
        yield f"from {', '.join(map(str, allow.ip))}"
    if allow.deny_ip:
        yield f"not from {', '.join(map(str, allow.deny_ip))}"


def _who_words(allow: model.Allow) -> Iterator[str]:
    if allow.scopes:
        yield f"scopes {' and '.join(allow.scopes)}"
    if allow.claims:
        yield f"claims {', '.join(allow.claims)}"
    if allow.consumers:
        yield f"consumer {' or '.join(allow.consumers)}"
    if allow.groups:
        yield f"group {' or '.join(allow.groups)}"


def _limit_words(limits: list[tuple[str, model.RateLimit]]) -> Iterator[str]:
    for name, limit in limits:
        where = f" in {limit.store}" if limit.store is not None else ""
        report = " (report)" if limit.mode == "report" else ""
        yield f"{name}: {limit.rate} per {limit.key}{where}{report}"


def _forward_stages(
    route: effective.Route, answer: effective.Forward, config: effective.Config | None
) -> list[tuple[str, str]]:
    policies = route.policies
    changes = list(_rewrite_words(policies.rewrite)) + list(_edit_words(policies.headers.request))
    upstreams = {
        branch.upstream: config.upstreams[branch.upstream].settings
        for branch in answer.branches
        if config is not None
    }
    each = {name: one.policies for name, one in route.variants().items()}
    stages = [
        ("request transform", ", ".join(changes) or "nothing"),
        ("buffer", _each(each, lambda one: ", ".join(_buffer_words(one.buffer)))),
        ("total time-out", _each(each, lambda one: shown("timeouts.total", one.timeouts.total))),
        ("deadline", _each(each, lambda one: _deadline_words(one.deadline))),
        ("concurrency", _each(upstreams, _concurrency_words)),
        ("mirror", _mirror_words(policies.mirror)),
        ("circuit", _each(upstreams, _circuit_words)),
        ("balance", _balance_words(answer, upstreams)),
        ("left out", _each(upstreams, _left_out_words)),
        ("try", _each(each, _try_words, " | ")),
        ("hedge", _each(each, lambda one: _hedge_words(one.hedge))),
    ]
    return [(stage, does) for stage, does in stages if does]


def _fault_words(fault: model.Fault) -> Iterator[str]:
    if fault.delay is not None:
        yield f"{fault.delay.percent:g}% wait {duration(fault.delay.time)}"
    if fault.abort is not None:
        yield f"{fault.abort.percent:g}% get {fault.abort.status}"


def _buffer_words(buffer: model.Buffer) -> Iterator[str]:
    if buffer.request is not None:
        yield f"bodies up to {size(buffer.request)} are gathered first"
    if buffer.response is not None:
        yield f"replies are read {size(buffer.response)} ahead of a slow client"


def _deadline_words(deadline: model.Deadline | None) -> str:
    if deadline is None:
        return ""
    callers = {"trusted_proxies": "trusted proxies", "all": "everybody", "none": "nobody"}
    return f"the time left goes on in {deadline.header}; heard from {callers[deadline.trust]}"


def _mirror_words(mirror: model.Mirror | None) -> str:
    if mirror is None:
        return ""
    compared = ", answers compared" if mirror.compare is not None else ""
    return f"{mirror.percent:g}% copied to {mirror.upstream}{compared}"


def _hedge_words(hedge: model.Hedge | None) -> str:
    if hedge is None:
        return ""
    after = f"{hedge.after} of the answers of late"
    if isinstance(hedge.after, float):
        after = duration(hedge.after)
    return f"{hedge.max} more beside the first after {after}, if it may be repeated"


def _try_words(policies: model.Policies) -> str:
    limits = ("connect", "first_byte", "idle")
    tried = ", ".join(
        f"{name} {shown(f'timeouts.{name}', getattr(policies.timeouts, name))}" for name in limits
    )
    retry = policies.retry
    if retry is not None and retry.per_try is not None:
        tried += f", per_try {shown('retry.per_try', retry.per_try)}"
    again = (
        f"{retry.max} more on {', '.join(retry.on)}" if retry and retry.max else "no further tries"
    )
    return f"{tried}; {again}"


# ── upstreams ───────────────────────────────────────────────────────────────────────────────────


def _each(upstreams: dict[str, S], words: Callable[[S], str], between: str = "; ") -> str:
    """What `words` says of each upstream: once, where it is the same of all."""
    told = {name: words(settings) for name, settings in upstreams.items()}
    if len(set(told.values())) <= 1:
        return next(iter(told.values()), "")
    return between.join(f"{name}: {text or 'off'}" for name, text in told.items())


def _concurrency_words(upstream: model.Upstream) -> str:
    limit = upstream.concurrency
    if limit is None:
        return ""
    at_once = "" if limit.per_target is None else f"at most {limit.per_target} at a target, "
    adaptive = {
        "off": "",
        "report": "; a limit by response times is shown",
        "enforce": "; fewer as response times say",
    }[limit.adaptive]
    waits = f"{limit.queue} wait for {duration(limit.queue_timeout)}"
    return f"{at_once}{waits}{adaptive}{_only_shown(limit)}"


def _circuit_words(upstream: model.Upstream) -> str:
    circuit = upstream.circuit
    if circuit is None:
        return ""
    failing = f"{circuit.error_ratio:.0%} of {circuit.min_requests} or more fail"
    opens = f"503 for {duration(circuit.open)} when {failing} in {duration(circuit.window)}"
    return opens + _only_shown(circuit)


def _only_shown(policy: model.Body | model.Circuit | model.Concurrency) -> str:
    return " (mode: report, nothing is refused)" if policy.mode == "report" else ""


def _balance_words(answer: effective.Forward, upstreams: dict[str, model.Upstream]) -> str:
    names = list(dict.fromkeys(branch.upstream for branch in answer.branches))
    words = " or ".join(names) + (" by weight" if len(answer.branches) > 1 else "")

    def how(upstream: model.Upstream) -> str:
        parts = [upstream.balance]
        if upstream.sticky is not None:
            parts.append(f"the same again by cookie {upstream.sticky.cookie}")
        if upstream.slow_start is not None:
            parts.append(f"slow start {duration(upstream.slow_start)}")
        return ", ".join(parts)

    told = _each(upstreams, how)
    return f"{words}: {told}" if told else words


def _left_out_words(upstream: model.Upstream) -> str:
    parts = []
    health, eject = upstream.health, upstream.eject
    if health is not None and (health.path is not None or health.tcp):
        asked = f"{health.method} {health.path}" if health.path is not None else "connecting"
        parts.append(f"down after {health.fall} failed checks ({asked})")
    if eject is not None:
        ways = []
        if eject.consecutive_failures is not None:
            ways.append(f"after {eject.consecutive_failures} failures")
        if eject.failure_ratio is not None:
            ways.append(f"when {eject.failure_ratio:.0%} fail")
        parts.append(f"{duration(eject.base)} out {' or '.join(ways)}")
        if upstream.panic:
            parts.append(f"but not while fewer than {upstream.panic:.0%} are left")
    return ", ".join(parts)


# ── edits ───────────────────────────────────────────────────────────────────────────────────────


def _rewrite_words(rewrite: model.Rewrite) -> Iterator[str]:
    if rewrite.strip_prefix is not None:
        yield f"strip {rewrite.strip_prefix}"
    if rewrite.path is not None:
        yield "path replaced"
    if rewrite.regex is not None:
        yield f"path by regex {rewrite.regex.match}"
    if rewrite.add_prefix is not None:
        yield "prefix added"
    if rewrite.host is not None:
        yield "host replaced"
    query = rewrite.query
    for verb, names in (("set", query.set), ("add", query.add), ("remove", query.remove)):
        if names:
            yield f"query {verb} {' '.join(names)}"


def _edit_words(edits: model.HeaderEdits) -> Iterator[str]:
    for verb, names in (("set", edits.set), ("add", edits.add), ("remove", edits.remove)):
        if names:
            yield f"{verb} {' '.join(names)}"


def _cors_words(cors: model.Cors) -> str:
    origins = ", ".join(one.text or f"regex {one.regex}" for one in cors.origins)
    cookies = " with credentials" if cors.credentials else ""
    return f"answered here: {' '.join(cors.methods)} from {origins}{cookies}"


def _csrf_words(route: effective.Route, config: effective.Config | None) -> str:
    names = sign_in.protected(route, {} if config is None else config.auth)
    if names is None:
        return "what other sites make a browser send is refused"
    if not names:
        return ""
    return f"what other sites make a browser send is refused with a session of {' and '.join(sorted(names))}"


def _browser_words(policies: model.Policies) -> Iterator[str]:
    if policies.security_headers is not None:
        yield f"security headers {policies.security_headers.preset}"
    if policies.hsts is not None:
        yield f"HSTS for {duration(policies.hsts.max_age)} on https"
    if policies.cors is not None:
        yield "CORS fields"


def _answer_words(answer: effective.SignIn | model.Static | model.Redirect | model.Respond) -> str:
    if isinstance(answer, model.Static):
        return f"files below {answer.root}"
    if isinstance(answer, effective.SignIn):
        return str(answer)
    if isinstance(answer, model.Redirect):
        return f"redirect {answer.status}"
    return f"respond {answer.status}"


# ── values as users write them ──────────────────────────────────────────────────────────────────


def shown(path: str, value: object) -> str:
    """A value as a user would write it."""
    if value is None:
        return "off"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(_item(item) for item in value)
    if isinstance(value, int | float):
        return _number(path, value)
    return str(value)


def _item(item: object) -> str:
    """An entry of a list; of one with keys, what is written."""
    if not isinstance(item, dict):
        return str(item)
    return " ".join(f"{key} {told}" for key, told in item.items() if told not in (None, ""))


def _number(path: str, value: float) -> str:
    leaf = path.rpartition(".")[2]
    if leaf in _DURATIONS or path == _LONGEST:
        return duration(value)
    if path in _SIZES:
        return size(value)
    if leaf == "min_rate":
        return f"{size(value)}/s"
    if leaf in _SHARES:
        return f"{value:.0%}"
    if leaf in _PERCENTS:
        return f"{value:g}%"
    return str(value)


def duration(seconds: float) -> str:
    """Such as `250ms`, `30s`, `5m`, `12h`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        # One minute stays 60s, beside 30s and 90s.
        if seconds >= max(length, 120) and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def size(count: float) -> str:
    """Such as `512B`, `64KiB`, `10MiB`."""
    for unit, length in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= length and count % length == 0:
            return f"{count / length:g}{unit}"
    return f"{count:g}B"
