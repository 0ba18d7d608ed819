"""The stages that a request for a route passes, in words: what `gateway pipeline` prints.

Rules of this file: words for people, made of a route's effective policies. The order is that of the
data path; a test holds it to the order of the middlewares.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.config import effective, model

if TYPE_CHECKING:
    from collections.abc import Iterator

_DURATIONS = frozenset(
    ("pool_wait", "connect", "first_byte", "idle", "total", "per_try", "max_age")
)
_SIZES = frozenset(("body.max", "retry.replay_body"))


def pipeline(route: effective.Route) -> tuple[tuple[str, str], ...]:
    """(stage, what it does for this route), in the order in which a request meets them."""
    policies = route.policies
    most = "any size" if policies.body.max is None else f"at most {size(policies.body.max)}"
    stages = [
        ("limits", f"head within server.limits, body of {most}"),
        ("client", "address, scheme and host, from trusted proxies only; request id"),
        (
            "normalise",
            "refuse or resolve a path that can be read two ways (server.ambiguous_paths)",
        ),
        ("route", _matcher(route)),
    ]
    if isinstance(route.answer, effective.Forward):
        stages += _forward_stages(route, route.answer)
    else:
        stages.append(("answer", _answer_words(route.answer)))
    edits = list(_edit_words(policies.headers.response))
    if policies.headers.response.rewrite_location:
        edits.append("Location made public")
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


def _forward_stages(route: effective.Route, answer: effective.Forward) -> list[tuple[str, str]]:
    policies = route.policies
    changes = list(_rewrite_words(policies.rewrite)) + list(_edit_words(policies.headers.request))
    names = [branch.upstream for branch in answer.branches]
    times = policies.timeouts
    limits = ("connect", "first_byte", "idle")
    tried = ", ".join(
        f"{name} {shown(f'timeouts.{name}', getattr(times, name))}" for name in limits
    )
    retry = policies.retry
    again = (
        f"{retry.max} more on {', '.join(retry.on)}" if retry and retry.max else "no further tries"
    )
    total = shown("timeouts.total", times.total)
    return [
        ("request transform", ", ".join(changes) or "nothing"),
        ("total time-out", total),
        ("balance", " or ".join(names) + (" by weight" if len(names) > 1 else "")),
        ("try", f"{tried}; {again}"),
    ]


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


def _answer_words(answer: model.Static | model.Redirect | model.Respond) -> str:
    if isinstance(answer, model.Static):
        return f"files below {answer.root}"
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
        return ", ".join(str(item) for item in value)
    leaf = path.rpartition(".")[2]
    if isinstance(value, int | float):
        if leaf in _DURATIONS:
            return duration(value)
        if path in _SIZES:
            return size(value)
        if leaf == "min_rate":
            return f"{size(value)}/s"
        if leaf == "budget":
            return f"{value:.0%}"
    return str(value)


def duration(seconds: float) -> str:
    """Such as `250ms`, `30s`, `5m`, `12h`."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:g}ms"
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length and seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"


def size(count: float) -> str:
    """Such as `512B`, `64KiB`, `10MiB`."""
    for unit, length in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= length and count % length == 0:
            return f"{count / length:g}{unit}"
    return f"{count:g}B"
