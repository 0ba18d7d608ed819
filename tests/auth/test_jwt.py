"""`jwt`: which tokens are good, what is said of others, and how long it is remembered."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from gateway import errors
from gateway.auth import jwt
from gateway.auth.jws import LONGEST
from gateway.config.auth import Jwt
from tests.auth.kit import bearing, known, outcome, request, tools
from tests.kit.clock import FakeClock
from tests.kit.issuer import SECRET, Issuer, jwk

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Make = Callable[..., Awaitable[jwt.Jwt]]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def issuer(clock: FakeClock) -> AsyncIterator[Issuer]:
    async with Issuer(clock) as one:
        yield one


@pytest.fixture
async def make(clock: FakeClock, issuer: Issuer) -> AsyncIterator[Make]:
    made: list[jwt.Jwt] = []

    async def one(**settings: Any) -> jwt.Jwt:
        given = {"issuer": issuer.url, "audience": ["api"], **settings}
        made.append(jwt.make("staff", Jwt(**given), tools(clock)))
        return made[-1]

    yield one
    for each in made:
        await each.aclose()


async def test_a_good_token_tells_who_asks(make: Make, issuer: Issuer) -> None:
    one = await make(consumer="user-{claim.sub}", forward={"X-Roles": "{claim.realm.roles}"})
    token = issuer.sign(realm={"roles": ["a", "b"]}, groups=["g"], scope="r w", scp=["x"])
    who = await known(one, bearing(token))
    assert (who.policy, who.consumer, who.groups) == ("staff", "user-ann", {"g"})
    assert who.scopes == {"r", "w", "x"}
    assert who.lines == b"X-Roles: a,b\r\n"
    assert who.expires == who.claims["exp"] + 30
    assert one.taken.headers == {b"authorization"}
    assert one.forwarded == {b"x-roles"}


@pytest.mark.parametrize(
    "alg",
    [
        *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
        *("ES256", "ES384", "ES512", "EdDSA"),
    ],
)
async def test_every_algorithm_is_spoken(make: Make, issuer: Issuer, alg: str) -> None:
    issuer.rotate("k", alg)
    one = await make(algorithms=[alg])
    assert (await known(one, bearing(issuer.sign()))).consumer == "ann"
    others = [each for each in ("RS256", "ES256") if each != alg]
    assert await outcome(await make(algorithms=others), bearing(issuer.sign())) == "bad_signature"


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
async def test_a_secret_is_spoken_and_of_several_any(make: Make, issuer: Issuer, alg: str) -> None:
    issuer.keys = {"k": (alg, SECRET)}
    one = await make(secret=["o" * 64, SECRET], algorithms=[alg])
    assert (await known(one, bearing(issuer.sign()))).consumer == "ann"
    assert (await known(one, bearing(issuer.sign(kid=None)))).consumer == "ann"
    issuer.keys = {"k": (alg, "x" * 64)}
    assert await outcome(one, bearing(issuer.sign())) == "bad_signature"
    assert issuer.asked == {}


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [
        ({"exp": None}, "malformed"),
        ({"exp": "2100-01-01"}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"exp": 10**400}, "malformed"),
        ({"exp": 0}, "expired"),
        ({"exp": -1}, "expired"),
        ({"nbf": "soon"}, "malformed"),
        ({"iss": "https://other.example.com/"}, "wrong_audience"),
        ({"iss": None}, "wrong_audience"),
        ({"iss": ["x"]}, "wrong_audience"),
        ({"aud": "other"}, "wrong_audience"),
        ({"aud": None}, "wrong_audience"),
        ({"aud": []}, "wrong_audience"),
        ({"aud": ["other", "API"]}, "wrong_audience"),
        ({"aud": ["api", 5]}, "wrong_audience"),
        ({"aud": {"api": 1}}, "wrong_audience"),
        ({"aud": "api other"}, "wrong_audience"),
        ({"sub": None}, "malformed"),
        ({"sub": 5}, "malformed"),
        ({"jti": 5}, "malformed"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_claims_that_are_not_as_the_policy_says_are_refused(
    make: Make, issuer: Issuer, claims: dict[str, Any], wanted: str
) -> None:
    one = await make(require=["sub"], jwks=f"{issuer.url}keys")
    key = issuer.keys["one"][1]
    token = issuer.sign() if not claims else _raw(issuer, claims, key)
    assert await outcome(one, bearing(token)) == wanted


def _raw(issuer: Issuer, claims: dict[str, Any], key: Any) -> str:
    from tests.kit.issuer import compact

    return compact({"alg": "ES256", "kid": "one"}, issuer.claims(**claims), key, "ES256")


async def test_audiences_may_be_several_on_both_sides(make: Make, issuer: Issuer) -> None:
    one = await make(audience=["api", "web"])
    for aud in ("web", ["x", "api"], ["api", "web"]):
        assert await known(one, bearing(issuer.sign(aud=aud)))


async def test_where_no_audience_is_wanted_none_may_be_named(make: Make, issuer: Issuer) -> None:
    one = await make(audience=[])
    assert await known(one, bearing(issuer.sign(aud=None)))
    assert await outcome(one, bearing(issuer.sign(aud="api"))) == "wrong_audience"


async def test_clocks_may_be_apart_by_the_leeway(
    make: Make, issuer: Issuer, clock: FakeClock
) -> None:
    one = await make(leeway=20)
    now = issuer.now()
    ends = issuer.sign(exp=now + 60)
    assert await known(one, bearing(ends))
    assert await known(one, bearing(issuer.sign(nbf=now + 15, iat=now + 15)))
    assert await outcome(one, bearing(issuer.sign(nbf=now + 40))) == "inactive"
    assert await outcome(one, bearing(issuer.sign(iat=now + 40))) == "inactive"
    clock.advance(70)
    assert await known(one, bearing(ends))
    clock.advance(11)
    assert await outcome(one, bearing(ends)) == "expired"


async def test_a_token_need_not_end_if_the_policy_says_so(
    make: Make, issuer: Issuer, clock: FakeClock
) -> None:
    one = await make(expiry="optional")
    token = issuer.sign(exp=None)
    assert (await known(one, bearing(token))).expires == math.inf
    clock.advance(1_000_000)
    assert await known(one, bearing(token))
    assert await outcome(one, bearing(issuer.sign(exp=1))) == "expired"


@pytest.mark.parametrize(
    ("typ", "wanted", "good"),
    [
        (None, "JWT", True),
        (None, "jwt", True),
        (None, "at+jwt", True),
        (None, "application/at+JWT", True),
        (None, None, True),
        (None, "logout+jwt", False),
        (None, "dpop+jwt", False),
        ("at+jwt", "at+jwt", True),
        ("at+jwt", "application/at+jwt", True),
        ("at+jwt", "JWT", False),
        ("at+jwt", None, False),
        ("application/logout+jwt", "logout+JWT", True),
    ],
)
async def test_the_type_of_a_token(
    make: Make, issuer: Issuer, typ: str | None, wanted: str | None, good: bool
) -> None:
    one = await make(typ=typ)
    token = issuer.sign(header={"typ": wanted})
    if good:
        assert await known(one, bearing(token))
    else:
        assert await outcome(one, bearing(token)) == "malformed"


# ── where it stands ──


async def test_no_bearer_token_is_no_credential(make: Make) -> None:
    one = await make()
    for fields in ((), (("Authorization", "Basic eA=="),), (("Authorization", "Bearerx y"),)):
        assert one.authenticate(request(*fields)) is None
    twice = (("Authorization", "Basic a"), ("Authorization", "Basic b"))
    assert one.authenticate(request(*twice)) is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
async def test_the_scheme_ignores_case(make: Make, issuer: Issuer, scheme: str) -> None:
    fields = ("authorization", f"{scheme} {issuer.sign()}")
    assert await known(await make(), request(fields))


async def test_two_fields_are_nobodys_choice(make: Make, issuer: Issuer) -> None:
    one = await make()
    good = ("Authorization", f"Bearer {issuer.sign()}")
    for other in (good, ("Authorization", "Basic x"), ("Authorization", "Bearer")):
        with pytest.raises(errors.BadRequest) as caught:
            one.authenticate(request(good, other))
        assert dict(caught.value.headers)["WWW-Authenticate"].endswith('error="invalid_request"')
    assert one._bearer._meter.outcomes["malformed"] == 3


async def test_it_may_stand_alone_in_a_field_of_its_own(make: Make, issuer: Issuer) -> None:
    one = await make(header="X-Assertion")
    assert await known(one, request(("x-assertion", issuer.sign())))
    assert one.authenticate(bearing(issuer.sign())) is None
    assert one.taken.headers == {b"x-assertion"}
    with pytest.raises(errors.BadRequest):
        one.authenticate(request(("X-Assertion", "a"), ("x-assertion", "b")))


@pytest.mark.parametrize(
    "token",
    ["", "x", "a.b", "a.b.c", "a.b.c.d.e", "..", "a..b", "é.b.c", "\udcff", "x" * (LONGEST + 1)],
    ids=lambda value: ascii(value)[:20],
)
async def test_what_is_no_token_is_malformed(make: Make, issuer: Issuer, token: str) -> None:
    assert await outcome(await make(), bearing(token)) == "malformed"
    assert issuer.asked == {}


async def test_a_refusal_tells_the_operator_and_quotes_nothing(make: Make, issuer: Issuer) -> None:
    one = await make()
    token = issuer.sign(aud="somebody-else")
    with pytest.raises(errors.Unauthenticated) as caught:
        await known(one, bearing(token))
    assert caught.value.detail == "it is for another audience"
    told = dict(caught.value.headers)["WWW-Authenticate"]
    assert told == 'Bearer realm="gateway", error="invalid_token"'
    assert one.challenge == 'Bearer realm="gateway"'


# ── what is remembered ──


async def test_a_token_is_verified_once_a_minute(
    make: Make, issuer: Issuer, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    verified = jwt.jws.verified
    monkeypatch.setattr(jwt.jws, "verified", lambda *a: calls.append(1) or verified(*a))
    one, token = await make(), issuer.sign(exp=issuer.now() + 3600)
    first = await known(one, bearing(token))
    assert await known(one, bearing(token)) is first
    clock.advance(59)
    assert await known(one, bearing(token)) is first
    assert len(calls) == 1
    clock.advance(2)
    assert await known(one, bearing(token)) is not first
    assert len(calls) == 2


async def test_what_is_remembered_ends_with_the_token(
    make: Make, issuer: Issuer, clock: FakeClock
) -> None:
    one = await make(leeway=0)
    token = issuer.sign(exp=issuer.now() + 10)
    assert await known(one, bearing(token))
    clock.advance(11)
    assert await outcome(one, bearing(token)) == "expired"


async def test_what_is_remembered_ends_with_its_key(
    make: Make, issuer: Issuer, clock: FakeClock
) -> None:
    one = await make()
    old = issuer.sign()
    assert await known(one, bearing(old))
    clock.advance(11)
    issuer.rotate("two")
    assert await known(one, bearing(issuer.sign()))  # an unknown key: it is asked for
    assert await outcome(one, bearing(old)) == "unknown_key"


async def test_a_refusal_is_not_remembered_as_anybodys_identity(make: Make, issuer: Issuer) -> None:
    one = await make()
    good = issuer.sign()
    assert await known(one, bearing(good))
    head, claims, signature = good.split(".")
    other = issuer.sign(sub="eve").split(".")
    for forged in (f"{head}.{other[1]}.{signature}", f"{head}.{claims}.{other[2]}"):
        for _ in range(2):
            assert await outcome(one, bearing(forged)) == "bad_signature"
    assert len(one._known) == 1
    assert (await known(one, bearing(good))).consumer == "ann"


async def test_what_is_remembered_is_bounded(
    make: Make, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await make()
    one._known._most = 5
    for number in range(9):
        assert await known(one, bearing(issuer.sign(sub=str(number))))
    assert len(one._known) == 5


# ── rehearsal ──


async def test_it_is_rehearsed_where_no_network_is_needed(
    make: Make, issuer: Issuer, tmp_path: Any
) -> None:
    import json

    kid, (_, key) = next(iter(issuer.keys.items()))
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk(key, kid)]}))
    here, away = await make(jwks=str(file)), await make()
    who = here.rehearse(bearing(issuer.sign()))
    assert who is not None
    assert who.consumer == "ann"
    assert here.rehearse(request()) is None
    with pytest.raises(errors.Unauthenticated):
        here.rehearse(bearing(issuer.sign(aud="x")))
    assert away.rehearse(bearing(issuer.sign())) is None
    assert issuer.asked == {}
