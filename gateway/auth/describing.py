"""What an accepted credential makes of a client: consumer, groups, and the fields that the upstream is told.

Rules of this file: the texts of a policy are compiled once, and rendered once for each identity, not for each request: they
may name `{consumer}` and `{claim.…}` only, and the configuration's check says so.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from gateway.identity import NOTHING, Identity
from gateway.routing.template import Template

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Settings(Protocol):
    """What every method of `auth:` may say."""

    @property
    def consumer(self) -> str | None: ...
    @property
    def groups(self) -> str | None: ...
    @property
    def forward(self) -> Mapping[str, str | None]: ...


class Describing:
    """One policy's texts, compiled."""

    def __init__(self, policy: str, settings: Settings) -> None:
        self._policy = policy
        self._consumer = None if settings.consumer is None else Template.compile(settings.consumer)
        self._groups = (settings.groups or "{claim.groups}")[1:-1].removeprefix("claim.")
        self._lines = [
            (name.encode("ascii"), Template.compile(text))
            for name, text in settings.forward.items()
            if text is not None
        ]
        self.forwarded = frozenset(name.lower().encode("ascii") for name in settings.forward)
        """Lower-case names of the fields that are written."""

    def identity(
        self,
        consumer: str,
        claims: Mapping[str, Any] = NOTHING,
        *,
        scopes: Iterable[str] = (),
        expires: float = math.inf,
    ) -> Identity:
        """Who that is. `consumer`: the name that the method itself knows, unless the policy says otherwise.

        `expires` is wall seconds. Groups are the claim's, as a list or as words of a text.
        """
        known = Identity(self._policy, consumer, claims, frozenset(scopes), expires=expires)
        if self._consumer is not None:
            known = replace(known, consumer=self._consumer.render(_view(known)) or consumer)
        known = replace(known, groups=frozenset(words(known.claim(self._groups))))
        if self._lines:
            known = replace(known, lines=self._rendered(known))
        return known

    def _rendered(self, known: Identity) -> bytes:
        """Its header lines; a text without a value makes none."""
        lines = []
        for name, template in self._lines:
            text = template.render_or_none(_view(known))
            if text is not None:
                lines.append(b"%b: %b\r\n" % (name, text.encode("utf-8", "surrogateescape")))
        return b"".join(lines)


def _view(identity: Identity) -> Any:
    """What a template reads, where nothing but an identity is known."""
    return SimpleNamespace(identity=identity)


def words(value: Any) -> tuple[str, ...]:
    """A claim of several words: a list of them, or one text with spaces between."""
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, list | tuple):
        return tuple(str(each) for each in value)
    return ()
