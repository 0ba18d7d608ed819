"""Which requests a route takes, what answers them, and the inline tests that try it.

The rules are those of `model.py`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from gateway.config.addresses import Count, HeaderName, HeaderValue, Method, PathText
from gateway.config.forms import NULL, Model, around, built_in
from gateway.config.nodes import Map, Seq, Text
from gateway.config.scalars import Duration, HostPattern, Network, Trap, read_text, refuse
from gateway.config.texts import FilePath, Regex, Watched


class PathPattern(Model):
    """`path:` in full form: text (exact, template or prefix), or a regex."""

    short = "text"

    text: PathText | None = Field(None, description="/a, /a/*, /users/{id}, /files/{rest...}")
    regex: Regex | None = Field(None, description="anchored as written; named groups are captures")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.text is None) == (self.regex is None):
            raise refuse("a path is a text such as /a/*, or {regex: '^/v1/'}")
        return self


class ValueTest(Model):
    """One entry of `when`: exactly one of these."""

    equals: str | None = Field(None, description="the text itself")
    one_of: tuple[str, ...] | None = Field(None, description="any of these texts")
    present: bool | None = Field(None, description="off: it must be absent")
    regex: Regex | None = Field(None, description="found anywhere in the value")

    @classmethod
    def full_form(cls, value: Text | Seq) -> Map:
        """`present`, `absent`, a text that must be equal, or a list of them."""
        if isinstance(value, Seq):
            return around(value, {"one_of": value})
        if value in ("present", "absent"):
            word = value.derive("true" if value == "present" else "false")
            return around(value, {"present": word})
        if value.plain and value in NULL:
            raise refuse("a text, a list, present, absent or {regex: …} is wanted")
        return around(value, {"equals": value})

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in self.model_fields_set if getattr(self, name) is not None]
        if len(given) != 1:
            raise refuse("exactly one of equals, one_of, present and regex is wanted")
        if self.one_of == ():
            raise refuse("this list is empty: nothing would match")
        return self


class When(Model):
    """Further conditions; all must hold."""

    header: dict[HeaderName, ValueTest] = Field(
        default_factory=dict, description="name: text, list, present, absent or {regex: …}"
    )
    query: dict[str, ValueTest] = Field(default_factory=dict, description="the same")
    cookie: dict[str, ValueTest] = Field(default_factory=dict, description="the same")
    client_ip: tuple[Network, ...] = Field((), description="networks")
    scheme: Literal["http", "https"] | None = Field(None, description="http or https")
    listener: tuple[str, ...] = Field((), description="names of listeners")


class Match(Model):
    """Which requests a route takes."""

    host: tuple[HostPattern, ...] = Field((), description="host names; none: any")
    path: PathPattern = Field(
        default_factory=built_in(PathPattern, text="/*"),
        description="a path, a prefix, a template or a regex",
    )
    methods: tuple[Method, ...] = Field((), description="methods; none: any")
    when: When = Field(default_factory=built_in(When), description="further conditions")
    priority: int = Field(0, description="the highest wins before anything else is compared")


def _bare(value: object) -> str:
    word = read_text(value, "the name of a placeholder such as client_ip or cookie.id")
    bare = word.removeprefix("{").removesuffix("}")
    if not re.fullmatch(r"[a-z_.0-9-]+", bare):
        raise refuse(f"{word!r} is no placeholder: write one such as client_ip or cookie.id")
    return bare


class Branch(Model):
    """One arm of a `split`."""

    upstream: str = Field(description="its name")
    weight: Count = Field(description="its share, compared with the others'")
    labels: dict[str, str] = Field(
        default_factory=dict, description="of its targets; none: those that no other branch takes"
    )
    sticky_by: Annotated[str, BeforeValidator(_bare)] | None = Field(
        None, description="the same value, the same branch: client_ip, cookie.id; for all branches"
    )


class Static(Model):
    """Files of a folder."""

    short = "root"

    root: FilePath = Field(description="the folder")
    index: str | None = Field("index.html", description="the file that answers for a folder")
    fallback: str | None = Field(None, description="the page of an application, in place of 404")
    precompressed: tuple[Literal["br", "gzip", "zstd"], ...] = Field(
        (), description="variants beside the files, as file.js.br"
    )
    max_age: Duration | None = Field(None, description="how long clients may keep a file")
    dotfiles: bool = Field(False, description="whether names that begin with a dot are served")


class Redirect(Model):
    """Another address."""

    short = "to"

    to: Watched = Field(description="a URL or a path; placeholders are filled in")
    status: Literal[301, 302, 303, 307, 308] = Field(308, description="301 302 303 307 308")


def _readable(value: Any) -> Any:
    """Free data has no type that could refuse what cannot be read."""
    if isinstance(value, Trap):
        raise refuse(value.message)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in items:
        _readable(item)
    return value


class Respond(Model):
    """A fixed answer."""

    short = "status"

    status: Annotated[int, Field(ge=200, le=599)] = Field(200, description="of the answer")
    headers: dict[HeaderName, HeaderValue | None] = Field(
        default_factory=dict, description="name: value"
    )
    body: str | None = Field(None, description="a text; placeholders are filled in")
    json_: Annotated[Any, BeforeValidator(_readable)] = Field(
        default=None, alias="json", description="data; sent as application/json"
    )

    @model_validator(mode="after")
    def _one_body(self) -> Self:
        has_json = not {"json", "json_"}.isdisjoint(self.model_fields_set)
        if has_json and self.body is not None:
            raise refuse("an answer has body or json, not both")
        if self.status in (204, 205, 304) and (has_json or self.body):
            raise refuse(f"an answer with status {self.status} has no body")
        return self


# ── inline tests ────────────────────────────────────────────────────────────────────────────────

VERBS = ("get", "head", "post", "put", "patch", "delete", "options")


def _client(value: object) -> str:
    word = str(value)
    try:
        return "unix" if word == "unix" else str(ipaddress.ip_address(word))
    except ValueError:
        raise refuse(f"{word!r} is no address: write one such as 192.0.2.7") from None


def _whole(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise refuse(f"{url!r} is no URL: write http://HOST/PATH")
    return url


class TestRequest(Model):
    """The request of an inline test: `get: URL` and so on."""

    __test__ = False

    method: Method = Field(description="in full form; or get: URL")
    url: Annotated[str, AfterValidator(_whole)] = Field(description="with scheme and host")
    headers: dict[HeaderName, HeaderValue] = Field(default_factory=dict, description="name: value")
    body: str | None = Field(None, description="a text")
    client_ip: Annotated[str, BeforeValidator(_client)] = Field(
        "127.0.0.1", description="the address of the peer"
    )
    auth: str | None = Field(
        None, description="the policy that has accepted the client; built in: the route's first"
    )
    claims: dict[str, Any] = Field(
        default_factory=dict, description="name: value, of a client that was accepted"
    )
    consumer: str | None = Field(None, description="the name of a client that was accepted")

    @classmethod
    def adjusted(cls, value: Map) -> Map:
        """`get: URL` is `method: GET` and `url: URL`."""
        asked = [key for key in value if key in VERBS]
        if not asked and {"method", "url"} <= value.keys():
            return value
        if len(asked) != 1 or "method" in value or "url" in value:
            raise refuse(f"a request has exactly one of {' '.join(VERBS)}, such as get: URL")
        items: dict[str, Any] = {key: item for key, item in value.items() if key != asked[0]}
        url = value[asked[0]]
        if not isinstance(url, Text):
            raise refuse(f"{asked[0]} takes a URL")
        return value.like(items | {"method": url.derive(asked[0].upper()), "url": url})


class TestExpect(Model):
    """What an inline test expects; what is not named is not compared."""

    __test__ = False

    route: str | None = Field(None, description="the name of the route")
    status: Annotated[int, Field(ge=100, le=599)] | None = Field(
        None, description="of an answer that the gateway makes itself"
    )
    reason: str | None = Field(None, description="the word for a failure")
    upstream: str | None = Field(None, description="its name")
    upstream_path: str | None = Field(None, description="path and query as forwarded")
    upstream_headers: dict[str, str] = Field(default_factory=dict, description="as forwarded")
    headers: dict[str, str] = Field(default_factory=dict, description="of the answer")
    location: str | None = Field(None, description="where a redirect leads")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise refuse("nothing is expected: write route: NAME, or status: 404")
        return self


class InlineTest(Model):
    """What `gateway check` tries."""

    name: str = Field(description="a sentence of what is promised")
    request: TestRequest = Field(description="such as {get: URL, headers: {…}}")
    expect: TestExpect = Field(description="such as {route: NAME, upstream_path: /x}")
