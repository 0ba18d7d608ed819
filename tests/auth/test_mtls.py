"""`mtls`: a client is who its certificate says, and nobody else."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from gateway import errors
from gateway.auth import Tools
from gateway.auth.mtls import Mtls, make
from gateway.certificates import ClientCertificate
from gateway.config import model
from gateway.observe.entrance import AuthMeter
from gateway.observe.events import Events
from tests.kit.clock import FakeClock

if TYPE_CHECKING:
    from gateway.exchange import Exchange


class Connection:
    """What is known of one that is encrypted."""

    def __init__(self, certificate: ClientCertificate | None) -> None:
        self._certificate = certificate
        self.read = 0
        self.version, self.cipher, self.server_name = "TLSv1.3", "TLS_AES_256_GCM_SHA384", "a.test"

    @property
    def certificate(self) -> ClientCertificate | None:
        self.read += 1
        return self._certificate


def certificate(**fields: Any) -> ClientCertificate:
    values: dict[str, Any] = {
        "subject": "CN=billing,O=Example",
        "san_dns": ("billing.internal",),
        "san_uri": ("spiffe://example.com/billing",),
        "san_email": ("ops@example.com",),
        "serial": "7f",
        "fingerprint_sha256": "ab" * 32,
        "not_after": 4_000_000_000.0,
        "der": b"",
    }
    return ClientCertificate(**{**values, **fields})


def policy(clock: FakeClock | None = None, **settings: Any) -> Mtls:
    clock = clock or FakeClock()
    tools = Tools(clock, AuthMeter("machines"), Events(clock.wall))
    return make("machines", model.Mtls(**settings), tools)


def over(certificate: ClientCertificate | None) -> Exchange:
    return cast("Exchange", SimpleNamespace(tls=Connection(certificate)))


def test_without_tls_or_without_a_certificate_there_is_no_credential() -> None:
    mtls = policy()
    assert mtls.authenticate(cast("Exchange", SimpleNamespace(tls=None))) is None
    assert mtls.authenticate(over(None)) is None


@pytest.mark.parametrize(
    ("settings", "consumer"),
    [
        ({}, "billing.internal"),
        ({"consumer": "{tls.san_dns}"}, "billing.internal"),
        ({"consumer": "{claim.san_dns}"}, "billing.internal"),
        ({"consumer": "{tls.san_uri}"}, "spiffe://example.com/billing"),
        ({"consumer": "{tls.san_email}"}, "ops@example.com"),
        ({"consumer": "{tls.subject}"}, "CN=billing,O=Example"),
        ({"consumer": "{tls.serial}"}, "7f"),
        ({"consumer": "{tls.fingerprint}"}, "ab" * 32),
        ({"consumer": "{tls.version} {tls.server_name}"}, "TLSv1.3 a.test"),
        ({"consumer": "machine {tls.san_dns}"}, "machine billing.internal"),
        ({"consumer": "{tls.san_dns|nobody}"}, "billing.internal"),
    ],
)
def test_the_consumer_is_what_the_policy_makes_of_the_certificate(
    settings: dict[str, Any], consumer: str
) -> None:
    identity = policy(**settings).authenticate(over(certificate()))
    assert identity is not None
    assert (identity.policy, identity.consumer) == ("machines", consumer)


def test_without_a_text_it_is_the_first_name_that_the_certificate_has() -> None:
    found = []
    given: dict[str, Any] = {"san_dns": ("b.internal", "a.internal")}
    for gone in ("", "san_dns", "san_uri", "san_email"):
        given.update({gone: ()} if gone else {})
        identity = policy().authenticate(over(certificate(**given)))
        assert identity is not None
        found.append(identity.consumer)
    wanted = [
        "b.internal",
        "spiffe://example.com/billing",
        "ops@example.com",
        "CN=billing,O=Example",
    ]
    assert found == wanted


def test_a_certificate_without_the_name_that_is_asked_for_is_nobodys() -> None:
    # Another kind of name must not stand in for it: who may have a URI need not own a host of that text.
    for text in ("{tls.san_dns}", "machine {tls.san_dns}"):
        for names in ({"san_uri": ("billing.internal",)}, {"subject": "billing.internal"}):
            with pytest.raises(errors.Unauthenticated) as refused:
                policy(consumer=text).authenticate(over(certificate(san_dns=(), **names)))
            assert refused.value.outcome == "unknown_key"
    identity = policy(consumer="{tls.san_dns|a stranger}").authenticate(
        over(certificate(san_dns=()))
    )
    assert identity is not None
    assert identity.consumer == "a stranger"


def test_a_certificate_without_any_name_is_nobodys() -> None:
    with pytest.raises(errors.Unauthenticated):
        policy().authenticate(over(certificate(subject="", san_dns=(), san_uri=(), san_email=())))


def test_claims_and_fields_for_the_upstream_are_of_the_certificate() -> None:
    forward = {
        "X-Machine": "{tls.san_dns}",
        "X-Serial": "{claim.serial}",
        "X-Who": "{consumer}",
        "X-Off": None,
    }
    mtls = policy(forward=forward, consumer="{tls.subject}")
    assert mtls.forwarded == {b"x-machine", b"x-serial", b"x-who", b"x-off"}
    identity = mtls.authenticate(over(certificate()))
    assert identity is not None
    assert identity.lines == (
        b"X-Machine: billing.internal\r\nX-Serial: 7f\r\nX-Who: CN=billing,O=Example\r\n"
    )
    assert identity.claim("san_uri") == ("spiffe://example.com/billing",)


def test_one_that_has_run_out_on_a_connection_that_lasts_is_refused() -> None:
    clock = FakeClock()
    mtls = policy(clock)
    exchange = over(certificate(not_after=clock.wall() + 60))
    assert mtls.authenticate(exchange) is not None
    clock.advance(61)
    with pytest.raises(errors.Unauthenticated) as refused:
        mtls.authenticate(exchange)
    assert refused.value.outcome == "expired"


def test_a_certificate_is_read_once_a_connection_and_forgotten_with_it() -> None:
    mtls = policy()
    exchange = over(certificate())
    first = mtls.authenticate(exchange)
    for _ in range(3):
        assert mtls.authenticate(exchange) is first
    tls = cast("Connection", exchange.tls)
    assert tls.read == 1
    del exchange, tls
    gc.collect()
    assert len(mtls._known) == 0


async def test_an_inline_test_has_no_connection() -> None:
    mtls = policy()
    assert mtls.rehearse(over(certificate())) is None
    assert (mtls.challenge, mtls.taken.headers) == ("Certificate", frozenset())
    await mtls.aclose()
