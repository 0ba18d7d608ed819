"""Who may come in, of those that are known, and from where: `allow`.

The rules are those of `model.py`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from gateway.config.forms import NULL, Model, around
from gateway.config.nodes import Map, Seq, Text
from gateway.config.scalars import Network, refuse


class ClaimTest(Model):
    """What a claim must be: exactly one of these. Numbers and booleans are compared as JSON writes them."""

    equals: str | None = Field(None, description="the text itself")
    one_of: tuple[str, ...] | None = Field(None, description="any of these texts")
    contains: str | None = Field(None, description="a list, or words of a text, with this in it")

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """A text that must be equal, or a list of them."""
        if isinstance(value, Seq):
            return around(value, {"one_of": value})
        if value.plain and value in NULL:
            raise refuse("a text, a list or {contains: …} is wanted")
        # true is a claim's value here and no switch.
        return around(value, {"equals": value.derive(str(value), plain=False)})

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in self.model_fields_set if getattr(self, name) is not None]
        if len(given) != 1:
            raise refuse("exactly one of equals, one_of and contains is wanted")
        if self.one_of == ():
            raise refuse("this list is empty: nobody would be let in")
        return self


class Allow(Model):
    """Who of those that are known may come in, and from where. All that is written must hold."""

    scopes: tuple[str, ...] = Field((), description="all of these")
    claims: dict[str, ClaimTest] = Field(
        default_factory=dict, description="name: text, list (one of) or {contains: …}"
    )
    consumers: tuple[str, ...] = Field((), description="any of these")
    groups: tuple[str, ...] = Field((), description="any of these")
    ip: tuple[Network, ...] = Field((), description="from any of these networks")
    deny_ip: tuple[Network, ...] = Field((), description="and from none of these")
    mode: Literal["report", "enforce"] = Field(
        "enforce", description="report: count what would be refused, and let it in"
    )

    @property
    def of_identity(self) -> bool:
        """Whether it asks who somebody is."""
        return bool(self.scopes or self.claims or self.consumers or self.groups)

    @property
    def of_address(self) -> bool:
        """Whether it asks where somebody comes from."""
        return bool(self.ip or self.deny_ip)
