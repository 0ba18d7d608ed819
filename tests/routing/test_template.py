"""Text with placeholders."""

from __future__ import annotations

import contextlib
import json
from urllib.parse import parse_qsl, unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.certificates import ClientCertificate, Encryption
from gateway.identity import Identity
from gateway.routing.template import Template, Where
from tests.routing.kit import Named, View, view


def _full() -> View:
    return view(
        "/users/7?x=a%20b&x=c&e=",
        "POST",
        host="example.com",
        scheme="https",
        captures={"id": "a%2Fb"},
        route=Named("orders"),
        upstream="pool",
        target_name="10.0.0.1:80",
        request_id="abc",
        headers=[("X-Y", "one"), ("X-Y", "two"), ("Cookie", 'z=1; q="quoted"')],
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{client_ip} {host} {scheme} {method}", "203.0.113.9 example.com https POST"),
        ("{path} {query}", "/users/7 x=a%20b&x=c&e="),
        ("{path.id} {query.x} {query.e}|", "a%2Fb a b,c |"),
        ("{header.x-y} {cookie.z} {cookie.q}", "one,two 1 quoted"),
        ("{route} {upstream} {target} {request_id}", "orders pool 10.0.0.1:80 abc"),
        ("{header.none|nobody}", "nobody"),
        ("{header.none|}|", "|"),
        ("a{header.none}b", "ab"),
        ("{{host}", "{host}"),
        ("{{{host}}", "{example.com}"),
        ('{"a": "{host}", "b": {}}', '{"a": "example.com", "b": {}}'),
        ("{Not A Name} } {", "{Not A Name} } {"),
    ],
)
def test_placeholders_are_replaced_and_other_braces_are_text(text: str, wanted: str) -> None:
    assert Template.compile(text, where="text").render(_full()) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{consumer} {claim.sub}", "acme ann"),
        ("{claim.roles} {claim.admin} {claim.level}", "a,b true 3"),
        ("{claim.realm.access.id} {claim.https://x/y|none}", "r1 {claim.https://x/y|none}"),
        ("{claim.dotted.name}", "whole"),
        ("{claim.none|10/s}|{claim.realm|no text}", "10/s|no text"),
    ],
)
def test_what_is_known_of_the_client_has_placeholders(text: str, wanted: str) -> None:
    claims = {
        "sub": "ann",
        "roles": ["a", "b"],
        "admin": True,
        "level": 3,
        "realm": {"access": {"id": "r1"}},
        "dotted.name": "whole",
        "dotted": {"name": "not this"},
    }
    known = view(identity=Identity("staff", "acme", claims))
    assert Template.compile(text, where="text").render(known) == wanted
    assert (
        Template.compile("{consumer|nobody} {claim.sub|nobody}").render(view()) == "nobody nobody"
    )


def test_text_without_placeholders_is_a_constant() -> None:
    template = Template.compile("plain {{ text")
    assert template.constant == template.render(view()) == "plain { text"
    assert template.names == frozenset()
    assert Template.compile("").constant == ""
    assert Template.compile("{host}").constant is None


def test_a_template_knows_the_names_that_it_asks_for() -> None:
    names = Template.compile("{path.id}{host}{header.x|{}").names
    assert names == {"path.id", "host"}
    assert Template.compile("{query.a|b}").names == {"query.a"}


@pytest.mark.parametrize("text", ["{hots}", "{path.}", "{header}", "{cookie.}", "{env.home}"])
def test_an_unknown_name_is_refused_with_the_known_ones(text: str) -> None:
    with pytest.raises(ValueError, match=r"there is no placeholder.*client_ip"):
        Template.compile(text)


class _Encrypted(Encryption):
    """One whose client has a certificate, without one that has to be read."""

    certificate = ClientCertificate(
        "CN=a,O=b", ("a.test", "b.test"), ("spiffe://a/b",), (), "1f", "ab" * 32, 0.0, b""
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("{tls.version} {tls.cipher} {tls.server_name}", "TLSv1.3 AES x.test"),
        ("{tls.subject} {tls.serial}", "CN=a,O=b 1f"),
        ("{tls.fingerprint}", "ab" * 32),
        ("{tls.san_dns} {tls.san_uri} {tls.san_email|none}", "a.test,b.test spiffe://a/b none"),
    ],
)
def test_what_tls_tells_has_placeholders(text: str, wanted: str) -> None:
    encrypted = _Encrypted("TLSv1.3", "AES", server_name="x.test")
    assert Template.compile(text).render(view(tls=encrypted)) == wanted
    for plain in (view(), view(tls=Encryption("", ""))):
        assert Template.compile(text.split(" ", 1)[0]).render_or_none(plain) is None


@pytest.mark.parametrize("text", ["{tls}", "{tls.}", "{tls.der}", "{tls.subject.cn}"])
def test_tls_tells_nothing_else(text: str) -> None:
    with pytest.raises(ValueError, match=r"there is no placeholder.*tls\.subject"):
        Template.compile(text)


def test_a_header_without_a_value_is_not_set() -> None:
    assert Template.compile("a {header.none}").render_or_none(_full()) is None
    assert Template.compile("a {header.none|b}").render_or_none(_full()) == "a b"
    assert Template.compile("{query.e}").render_or_none(_full()) == ""
    assert Template.compile("{upstream}").render_or_none(view()) is None
    assert Template.compile("constant").render_or_none(view()) == "constant"


def test_control_bytes_never_come_out() -> None:
    evil = view(headers={"x": "a\r\nSet-Cookie: b\x00\x1b\x7f\t"}, captures={"id": "a\nb"})
    for where in ("header", "text"):
        assert Template.compile("{header.x}", where=where).render(evil) == "aSet-Cookie: b"
    assert Template.compile("{path.id}", where="path").render(evil) == "ab"


@pytest.mark.parametrize(
    ("text", "where", "wanted"),
    [
        ("/v2/{path.id}/{header.x}", "path", "/v2/a%2Fb/..%2F%3F%26%20%25%C3%A9"),
        ("https://{host}{path}?{query}", "path", "https://example.com/users/7?x=a%20b&x=c&e="),
        ("/é /{header.none|ö}", "path", "/%C3%A9%20/%C3%B6"),
        ("{header.x}", "query", "..%2F%3F%26%20%25%C3%A9"),
        ("a&b=c d", "query", "a%26b%3Dc%20d"),
        ("{header.none|a&b}", "query", "a%26b"),
    ],
)
def test_a_value_is_escaped_for_the_place_that_it_goes_to(
    text: str, where: Where, wanted: str
) -> None:
    request = view("/users/7?x=a%20b&x=c&e=", captures={"id": "a%2Fb"}, headers={"x": "../?& %é"})
    assert Template.compile(text, where=where).render(request) == wanted


def test_a_capture_can_not_add_a_query_parameter() -> None:
    request = view(captures={"id": "1&admin=1;x+y%26z"})
    assert (
        Template.compile("{path.id}", where="query").render(request) == "1%26admin%3D1%3Bx%2By%26z"
    )


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_a_value_survives_the_way_through_a_query(text: str) -> None:
    rendered = Template.compile("{header.x}", where="query").render(view(headers={"x": text}))
    assert parse_qsl("k=" + rendered, keep_blank_values=True) == [("k", text)]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_a_value_survives_the_way_through_a_path_as_one_segment(text: str) -> None:
    rendered = Template.compile("{header.x}", where="path").render(view(headers={"x": text}))
    assert unquote_to_bytes(rendered).decode() == text
    assert "/" not in rendered


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_a_value_survives_the_way_through_json(text: str) -> None:
    rendered = Template.compile('{"a": "{header.x}"}', where="json").render(
        view(headers={"x": text})
    )
    assert json.loads(rendered) == {"a": text}


@given(st.binary())
def test_bytes_that_are_no_text_pass_through_a_path_unchanged(raw: bytes) -> None:
    clean = bytes(byte for byte in raw if byte >= 32 and byte != 127)
    value = clean.decode("utf-8", "surrogateescape")
    rendered = Template.compile("{header.x}", where="path").render(view(headers={"x": value}))
    assert unquote_to_bytes(rendered) == clean


@given(st.text(alphabet="{}|ab."))
def test_whatever_is_written_compiles_or_is_refused_as_a_value(text: str) -> None:
    with contextlib.suppress(ValueError):
        template = Template.compile(text)
        assert "\n" not in template.render(view())
