"""`hmac`: whose signature is good, by the schemes' own examples, and what becomes of any other."""

from __future__ import annotations

import base64
import contextlib
import hmac
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from gateway import errors
from gateway.auth import Tools
from gateway.auth.signed import Seen, Signed, make
from gateway.clock import Clock
from gateway.config import ConfigError, load_dict
from gateway.identity import Identity
from gateway.observe.entrance import AuthMeter
from gateway.observe.events import Events
from tests.auth import signing
from tests.auth.signing import SECRET, WEBHOOK_SECRET, Fields

if TYPE_CHECKING:
    from gateway.exchange import Exchange

NOW = 1_700_000_000.0


class Still(Clock):
    """A clock whose time of day the test sets."""

    def __init__(self, now: float = NOW) -> None:
        super().__init__()
        self.time = now

    def wall(self) -> float:
        return self.time


def policy(clock: Clock | None = None, **settings: Any) -> Signed:
    clock = clock or Still()
    settings.setdefault("secret", SECRET)
    document = {
        "auth": {"hooks": {"hmac": settings}},
        "routes": [{"path": "/*", "to": "http://127.0.0.1:1", "auth": "hooks"}],
    }
    written = load_dict(document).auth["hooks"].hmac
    assert written is not None
    return make("hooks", written, Tools(clock, AuthMeter("hooks"), Events(clock.wall)))


def asked(
    fields: Fields, body: bytes = b"", *, method: str = "POST", target: str = "/", host: str = "a.test"
) -> Exchange:  # fmt: skip
    read: list[int] = []

    async def gather(exchange: Any, most: int, hold: Any) -> bytes:
        hold(len(body))
        read.append(most)
        return body

    path, _, query = target.partition("?")
    return cast("Exchange", SimpleNamespace(
        headers=CIMultiDictProxy(CIMultiDict(fields)), method=method, target=target, path=path, query=query, host=host,
        has_body=bool(body), length=len(body), route=SimpleNamespace(gather=gather), read=read,
    ))  # fmt: skip


async def outcome(signed: Signed, exchange: Exchange) -> str:
    try:
        verdict = signed.authenticate(exchange)
        if verdict is not None and not isinstance(verdict, Identity):
            verdict = cast("Identity", await verdict)
    except errors.Unauthenticated as error:
        return "leaks" if SECRET in error.detail else error.outcome
    return "missing" if verdict is None else "ok"


# ── the schemes' own examples ───────────────────────────────────────────────────────────────────


async def test_the_example_of_the_standard_webhooks_libraries() -> None:
    signed = policy(Still(1614265330.0), scheme="standard-webhooks", secret=WEBHOOK_SECRET)
    fields = [
        ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("webhook-timestamp", "1614265330"),
        ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ]
    assert await outcome(signed, asked(fields, b'{"test": 2432232314}')) == "ok"
    assert await outcome(signed, asked(fields, b'{"test": 2432232315}')) == "bad_signature"


async def test_the_example_of_githubs_documentation() -> None:
    signed = policy(scheme="github", secret="It's a Secret to Everybody")
    digest = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    fields = [("X-Hub-Signature-256", f"sha256={digest}")]
    assert await outcome(signed, asked(fields, b"Hello, World!")) == "ok"
    assert await outcome(signed, asked(fields, b"Hello, World")) == "bad_signature"


async def test_a_signature_that_openssl_made_as_stripe_describes_it() -> None:
    signed = policy(scheme="stripe", secret="whsec_test_secret")
    digest = "c7e8a5ffe91ab4cc96ae3606894bc0503982e4efd6a39ecfabd56bb3b69ac666"
    fields = [("Stripe-Signature", f"t=1700000000,v1={digest},v0={'0' * 64}")]
    assert await outcome(signed, asked(fields, b'{"id": 7}')) == "ok"


async def test_a_signature_that_openssl_made_as_our_documentation_describes_it() -> None:
    signed = policy(secret="s3cret")
    digest = "53b56647c36746b7a9597097eddfee2ec6222248e73e755468ec899720158859"
    fields = [("X-Signature", f"t=1700000000,n=8f3c,v1={digest}")]
    where = {"target": "/orders?x=1", "host": "api.example.com"}
    assert await outcome(signed, asked(fields, b'{"id": 7}', **where)) == "ok"


# ── each scheme, tampered with ──────────────────────────────────────────────────────────────────

SCHEMES: dict[str, Any] = {
    "standard-webhooks": signing.standard,
    "github": lambda body, at: signing.github(body),
    "stripe": signing.stripe,
    "request": signing.request,
}
each = pytest.mark.parametrize("scheme", SCHEMES)
timed = pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "github"])


def of(scheme: str, clock: Clock | None = None, **settings: Any) -> Signed:
    secret = WEBHOOK_SECRET if scheme == "standard-webhooks" else SECRET
    return policy(clock, **{"scheme": scheme, "secret": secret, **settings})


@each
async def test_a_good_signature_is_ok_and_is_the_policys_consumer(scheme: str) -> None:
    signed = of(scheme)
    exchange = asked(SCHEMES[scheme](b"body", NOW), b"body")
    verdict = signed.authenticate(exchange)
    assert verdict is not None
    identity = verdict if isinstance(verdict, Identity) else await verdict
    assert isinstance(identity, Identity)
    assert (identity.policy, identity.consumer, identity.scopes) == ("hooks", "hooks", frozenset())


@each
async def test_without_a_signature_there_is_no_credential(scheme: str) -> None:
    exchange = asked([("Authorization", "Bearer x")], b"body")
    assert await outcome(of(scheme), exchange) == "missing"
    assert exchange.read == []  # type: ignore[attr-defined]


@each
@pytest.mark.parametrize("body", [b"", b"bodY", b"body ", b"body\n", b"\0body", b"bod"])
async def test_another_body_is_a_bad_signature(scheme: str, body: bytes) -> None:
    assert await outcome(of(scheme), asked(SCHEMES[scheme](b"body", NOW), body)) == "bad_signature"


@each
async def test_another_secret_is_a_bad_signature_and_of_several_each_counts(scheme: str) -> None:
    old = "whsec_" + base64.b64encode(b"old secret").decode()
    new = of(scheme)._keys[0]
    exchange = asked(SCHEMES[scheme](b"body", NOW), b"body")
    assert await outcome(of(scheme, secret=old), exchange) == "bad_signature"
    own = WEBHOOK_SECRET if scheme == "standard-webhooks" else SECRET
    both = of(scheme, secret=[old, own])
    assert both._keys[1] == new
    assert await outcome(both, exchange) == "ok"


@timed
@pytest.mark.parametrize(
    ("age", "wanted"),
    [
        (0, "ok"),
        (299, "ok"),
        (300, "ok"),
        (301, "expired"),
        (-300, "ok"),
        (-301, "expired"),
        (1e9, "expired"),
    ],
)
async def test_a_signature_counts_for_the_tolerance_before_and_after_its_time(
    scheme: str, age: float, wanted: str
) -> None:
    exchange = asked(SCHEMES[scheme](b"body", NOW - age), b"body")
    assert await outcome(of(scheme, tolerance="5m"), exchange) == wanted
    if wanted == "expired":
        assert exchange.read == []  # type: ignore[attr-defined]


@timed
async def test_a_signature_counts_once(scheme: str) -> None:
    clock = Still()
    signed = of(scheme, clock)
    fields = SCHEMES[scheme](b"body", NOW)
    assert await outcome(signed, asked(fields, b"body")) == "ok"
    for later in (0, 1, 299):
        clock.time = NOW + later
        assert await outcome(signed, asked(fields, b"body")) == "expired"
    assert await outcome(signed, asked(SCHEMES[scheme](b"body", NOW + 299), b"body")) == "ok"


async def test_a_redelivery_of_github_is_not_told_from_a_replay() -> None:
    signed = of("github")
    for _ in range(2):
        assert await outcome(signed, asked(signing.github(b"body"), b"body")) == "ok"


async def test_what_was_refused_may_still_be_used_by_who_has_the_secret() -> None:
    signed = of("stripe")
    fields = signing.stripe(b"body", NOW)
    assert await outcome(signed, asked(fields, b"other")) == "bad_signature"
    assert await outcome(signed, asked(fields, b"body")) == "ok"


@each
async def test_a_field_that_stands_twice_is_malformed(scheme: str) -> None:
    for name, value in SCHEMES[scheme](b"body", NOW):
        twice = [*SCHEMES[scheme](b"body", NOW), (name.upper(), value)]
        assert await outcome(of(scheme), asked(twice, b"body")) == "malformed"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("other", SCHEMES)
async def test_the_signature_of_another_scheme_is_malformed_or_bad(scheme: str, other: str) -> None:
    if scheme == other:
        return
    fields = SCHEMES[other](b"body", NOW)
    header = of(scheme)._header
    moved = [(header if "ignature" in name else name, value) for name, value in fields]
    assert await outcome(of(scheme), asked(moved, b"body")) in ("malformed", "bad_signature")


# ── malformed ───────────────────────────────────────────────────────────────────────────────────

_GOOD = dict(signing.standard(b"body", NOW))
_DIGEST = _GOOD["webhook-signature"][3:]


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, "ok"),
        ({"webhook-signature": f"v1,AAAA v1,{_DIGEST}"}, "ok"),
        ({"webhook-signature": f"v1a,AAAA v1,{_DIGEST} v2,BBBB"}, "ok"),
        ({"webhook-signature": " ".join(["v1," + base64.b64encode(bytes(32)).decode()] * 15 + [f"v1,{_DIGEST}"])}, "ok"),
        ({"webhook-signature": " ".join(["v1," + base64.b64encode(bytes(32)).decode()] * 16 + [f"v1,{_DIGEST}"])},
         "malformed"),
        ({"webhook-signature": f"v1a,{_DIGEST}"}, "malformed"),
        ({"webhook-signature": f"v2,{_DIGEST}"}, "malformed"),
        ({"webhook-signature": f"V1,{_DIGEST}"}, "malformed"),
        ({"webhook-signature": _DIGEST}, "malformed"),
        ({"webhook-signature": ""}, "malformed"),
        ({"webhook-signature": f"v1,{_DIGEST[:-4]}"}, "malformed"),
        ({"webhook-signature": f"v1,{_DIGEST}AAAA"}, "malformed"),
        ({"webhook-signature": f"v1,{_DIGEST[:20]}\xe9{_DIGEST[20:]}"}, "malformed"),
        ({"webhook-signature": "v1," + base64.b64encode(bytes(32)).decode()}, "bad_signature"),
        ({"webhook-id": "msg_2"}, "bad_signature"),
        ({"webhook-id": ""}, "malformed"),
        ({"webhook-id": "a b"}, "malformed"),
        ({"webhook-id": None}, "malformed"),
        ({"webhook-timestamp": None}, "malformed"),
        ({"webhook-timestamp": ""}, "malformed"),
        ({"webhook-timestamp": "+1700000000"}, "malformed"),
        ({"webhook-timestamp": "1_700_000_000"}, "malformed"),
        ({"webhook-timestamp": "1700000000.0"}, "malformed"),
        ({"webhook-timestamp": "-1700000000"}, "malformed"),
        ({"webhook-timestamp": "１７００００００００"}, "malformed"),
        ({"webhook-timestamp": "nan"}, "malformed"),
        ({"webhook-timestamp": "9" * 400}, "malformed"),
        ({"webhook-timestamp": "01700000000"}, "bad_signature"),
        ({"webhook-timestamp": "1700000001"}, "bad_signature"),
    ],
)  # fmt: skip
async def test_a_standard_webhook_that_was_changed(
    changed: dict[str, str | None], wanted: str
) -> None:
    fields = [(name, value) for name, value in {**_GOOD, **changed}.items() if value is not None]
    assert await outcome(of("standard-webhooks"), asked(fields, b"body")) == wanted


async def test_id_and_time_can_not_trade_their_characters() -> None:
    # `1.1700000000.` may be cut in two places, but an id with what a time has more is another content.
    fields = dict(signing.standard(b"body", NOW, message="1"))
    fields["webhook-id"], fields["webhook-timestamp"] = "1.1700000000", ""
    assert (
        await outcome(of("standard-webhooks"), asked(list(fields.items()), b"body")) == "malformed"
    )


_T, _V1 = signing.stripe(b"body", NOW)[0][1].split(",")


@pytest.mark.parametrize("scheme", ["stripe", "request"])
@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        ("T, V", "ok"), ("V,T", "ok"), ("T,v1=" + "0" * 64 + ",V", "ok"), ("T,x=y,V", "ok"), ("T,V,", "ok"),
        ("V", "malformed"), ("T", "malformed"), ("", "malformed"), ("T,T,V", "malformed"),
        ("t=1700000001,T,V", "malformed"), ("t=,V", "malformed"), ("t=soon,V", "malformed"),
        ("t=+1700000000,V", "malformed"),
        ("T,v0=" + "0" * 64, "malformed"), ("T,v1=" + "0" * 63, "malformed"), ("T,v1=" + "g" * 64, "malformed"),
        ("T,v1=" + " 0" * 32, "malformed"), ("T,v1=" + "0" * 64, "bad_signature"),
        ("T" + ",v1=" + ",v1=".join(["0" * 64] * 16) + ",V", "malformed"),
    ],
)  # fmt: skip
async def test_a_list_of_time_and_signatures(scheme: str, written: str, wanted: str) -> None:
    name, value = SCHEMES[scheme](b"body", NOW)[0]
    moment, signature = value.split(",")
    text = written.replace("T", moment).replace("V", signature)
    assert await outcome(of(scheme), asked([(name, text)], b"body")) == wanted


@pytest.mark.parametrize(
    "written",
    ["sha256=", "sha1={}", "SHA256={}", "{}", "sha256={}0", "sha256= {}", "sha512={}", ""],
)
async def test_a_signature_of_github_in_another_form_is_malformed(written: str) -> None:
    digest = signing.github(b"body")[0][1].partition("=")[2]
    fields = [("X-Hub-Signature-256", written.format(digest))]
    assert await outcome(of("github"), asked(fields, b"body")) == "malformed"


@pytest.mark.parametrize(
    "change",
    [
        {"method": "PUT"}, {"target": "/x"}, {"target": "/?"}, {"target": "/?a=1"}, {"host": "b.test"},
        {"target": "/%2e"}, {"method": "post"},
    ],
)  # fmt: skip
async def test_a_request_of_ones_own_is_signed_with_method_host_and_target(
    change: dict[str, str],
) -> None:
    fields = signing.request(b"body", NOW)
    assert await outcome(of("request"), asked(fields, b"body", **change)) == "bad_signature"


async def test_a_nonce_makes_two_requests_of_one_second_two() -> None:
    signed = of("request")
    for nonce in ("a", "b"):
        fields = signing.request(b"", NOW, nonce=nonce, method="GET")
        assert await outcome(signed, asked(fields, method="GET")) == "ok"
        assert await outcome(signed, asked(fields, method="GET")) == "expired"
    for nonce in ("a b", "a,n=b", "", "é"):
        fields = [("X-Signature", f"t=1700000000,n={nonce},v1={'0' * 64}")]
        assert await outcome(signed, asked(fields)) == "malformed"


async def test_svix_has_names_of_its_own() -> None:
    fields = signing.standard(b"body", NOW, family="svix")
    signed = of("standard-webhooks", header="svix-signature")
    assert await outcome(signed, asked(fields, b"body")) == "ok"


async def test_another_header_may_bear_the_signature() -> None:
    signed = of("request", header="X-Partner")
    value = signing.request(b"body", NOW)[0][1]
    assert await outcome(signed, asked([("x-partner", value)], b"body")) == "ok"
    assert await outcome(signed, asked([("X-Signature", value)], b"body")) == "missing"


async def test_every_signature_is_compared_with_every_secret_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    signed = of("stripe", secret=[SECRET, "old"])
    good = signing.stripe(b"body", NOW)[0][1]
    fields = [("Stripe-Signature", f"{good},v1={'0' * 64}")]
    assert await outcome(signed, asked(fields, b"body")) == "ok"
    assert len(set(compared)) == 4


# ── bounds ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_body_that_says_it_is_too_large_is_refused_unread() -> None:
    exchange = asked(signing.github(b"x" * 100), b"x" * 100)
    with pytest.raises(errors.BodyTooLarge):
        of("github", max_body="99B").authenticate(exchange)
    assert exchange.read == []  # type: ignore[attr-defined]
    assert await outcome(of("github", max_body="100B"), exchange) == "ok"
    assert exchange.read == [100]  # type: ignore[attr-defined]


async def test_a_large_body_is_digested_beside_the_loop() -> None:
    body = b"x" * (1024 * 1024)
    assert await outcome(of("stripe"), asked(signing.stripe(body, NOW), body)) == "ok"
    assert (
        await outcome(of("stripe"), asked(signing.stripe(body, NOW), body[:-1] + b"y"))
        == "bad_signature"
    )


def test_what_was_seen_is_bounded_and_the_oldest_goes_first() -> None:
    seen = Seen(most=3)
    for number in range(10):
        assert seen.add(b"%d" % number, until=100.0, now=0.0)
    assert len(seen) == 3
    assert not seen.add(b"9", until=100.0, now=0.0)
    assert seen.add(b"0", until=100.0, now=0.0)


def test_what_is_over_is_forgotten_when_something_is_added() -> None:
    seen = Seen()
    for number in range(10):
        seen.add(b"%d" % number, until=float(number), now=0.0)
    seen.add(b"x", until=100.0, now=50.0)
    assert len(seen) == 1
    assert seen.add(b"3", until=100.0, now=50.0)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9)), max_size=40))
def test_nothing_counts_twice_before_it_is_over(steps: list[tuple[str, int]]) -> None:
    seen, until, now = Seen(), dict[str, float](), 0.0
    for word, wait in steps:
        now += wait
        over = until.get(word, -1.0) < now
        assert seen.add(word.encode(), now + 5.0, now) == over
        if over:
            until[word] = now + 5.0


def test_at_the_very_moment_at_which_it_is_still_good_it_counts_once() -> None:
    seen = Seen()
    assert seen.add(b"x", until=5.0, now=5.0)
    assert not seen.add(b"x", until=5.0, now=5.0)


# ── what else a policy says ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("secret", ["whsec_", "whsec_not base64", "whsec_AAA", "é"])
def test_a_secret_of_standard_webhooks_is_base64(secret: str) -> None:
    with pytest.raises(ConfigError, match="whsec_ and base64 behind it") as raised:
        policy(scheme="standard-webhooks", secret=secret)
    assert secret.removeprefix("whsec_") in ("", "é") or secret not in str(raised.value)


@each
@pytest.mark.parametrize("secret", ["", [], ["", "x"]])
def test_a_secret_that_is_empty_is_refused(scheme: str, secret: Any) -> None:
    with pytest.raises(ConfigError, match=r"empty|at least one"):
        policy(scheme=scheme, secret=secret)


def test_our_own_signature_stays_here_and_a_webhooks_goes_on() -> None:
    assert of("request").taken.headers == {b"x-signature"}
    for scheme in ("standard-webhooks", "github", "stripe"):
        assert of(scheme).taken.headers == frozenset()


async def test_consumer_and_forward_are_the_policys() -> None:
    signed = policy(scheme="github", consumer="github", forward={"X-From": "{consumer}"})
    verdict = signed.authenticate(asked(signing.github(b"x"), b"x"))
    identity = cast("Identity", await verdict)  # type: ignore[misc]
    assert (identity.consumer, identity.lines) == ("github", b"X-From: github\r\n")
    assert signed.forwarded == {b"x-from"}


async def test_an_inline_test_has_no_signature() -> None:
    signed = of("request")
    assert signed.rehearse(asked(signing.request(b"", NOW))) is None
    await signed.aclose()


@given(st.text(max_size=60))
def test_no_text_makes_it_fail_otherwise_than_by_an_outcome(text: str) -> None:
    for scheme in SCHEMES:
        signed = of(scheme) if scheme not in _MADE else _MADE[scheme]
        _MADE[scheme] = signed
        fields = [
            (signed._header, text),
            ("webhook-id", text or "x"),
            ("webhook-timestamp", "1700000000"),
        ]
        with contextlib.suppress(errors.Unauthenticated):
            assert signed.authenticate(asked(fields)) is None


_MADE: dict[str, Signed] = {}
