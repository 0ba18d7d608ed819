"""Attacks on signed tokens, in the order of RFC 8725 section 2, and on what is remembered of them.

Rules of this file: each attack is put to a whole gateway over a socket, once before anything is known and once after a good
token was accepted, so that neither a cold start nor a memory helps; after each the good token is let in still. Where it
matters the forged token is signed with the issuer's true key: then nothing but the rule in question stands in its way.
"""

from __future__ import annotations

import base64
import hmac
import json
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.auth.jwks import COOL_DOWN
from gateway.auth.jws import LONGEST
from gateway.config import ConfigError, load_dict
from tests.e2e.conformance.conftest import get, problem
from tests.kit.clock import FakeClock
from tests.kit.guarded import Guarded
from tests.kit.issuer import OTHER_RSA, RSA, SECRET, Issuer, b64, compact, jwk, private_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.conftest import MakeClient, MakeGateway, MakeOrigin

    Forge = Callable[[Issuer], str | bytes]


@pytest.fixture
async def guarded(
    origin: MakeOrigin, gateway: MakeGateway, raw: MakeClient
) -> AsyncIterator[Guarded]:
    async with Issuer(FakeClock()) as issuer:
        yield Guarded(issuer, origin, gateway, raw)


async def attack(guarded: Guarded, forge: Forge, outcome: str) -> None:
    """Refused before and after a good token, which is let in all the same; nothing more is fetched for it."""
    forged, good = forge(guarded.issuer), guarded.issuer.sign()
    assert forged != good
    await guarded.refused(forged, outcome)
    await guarded.accepted(good)
    await guarded.refused(forged, outcome)
    await guarded.accepted(good)
    assert guarded.issuer.asked["/keys"] == 1


def ours(issuer: Issuer) -> Any:
    """The issuer's true key."""
    return list(issuer.keys.values())[-1][1]


def signed(header: dict[str, Any] | bytes, claims: bytes | None = None, **more: Any) -> Forge:
    """A token of this header and these claims with the issuer's true signature."""

    def forge(issuer: Issuer) -> str:
        alg = list(issuer.keys.values())[-1][0]
        body = (
            issuer.claims(**more)
            if claims is None
            else claims % json.dumps(issuer.claims())[1:].encode()
        )
        fields = header if isinstance(header, bytes) else {"alg": alg, "kid": "one", **header}
        return compact(fields, body, ours(issuer), alg)

    return forge


def unsigned(alg: Any, signature: str = "") -> Forge:
    def forge(issuer: Issuer) -> str:
        fields = {"alg": alg, "kid": "one", "typ": "JWT"}
        if alg is None:
            del fields["alg"]
        return compact(fields, issuer.claims(sub="root"), None, "none") + signature

    return forge


async def test_what_is_forged_here_would_be_good_if_nothing_were_wrong_with_it(
    guarded: Guarded,
) -> None:
    await guarded.start()
    header = b'{"alg":"ES256","kid":"one"}'
    for forge in (signed({}), signed(header), signed({}, b"{%b"), signed({}, b'{"x":[1],%b')):
        await guarded.accepted(str(forge(guarded.issuer)))


# ── 2.1 weak signatures and insufficient validation ──

NOT_SIGNED = [
    "none",
    "None",
    "NONE",
    "nOnE",
    "none ",
    "",
    "null",
    None,
    0,
    ["none"],
    {"a": 1},
    True,
]


@pytest.mark.parametrize("alg", NOT_SIGNED, ids=repr)
@pytest.mark.parametrize("signature", ["", "AA", "x" * 86])
async def test_2_1_a_token_that_is_not_signed(guarded: Guarded, alg: Any, signature: str) -> None:
    await guarded.start()
    malformed = not signature or not isinstance(alg, str)
    await attack(guarded, unsigned(alg, signature), "malformed" if malformed else "bad_signature")


def public_forms(key: Any) -> list[bytes]:
    """All that a public key may be taken for, when it is taken for a secret."""
    public = key.public_key()
    forms = [
        public.public_bytes(encoding, form)
        for encoding in (Encoding.PEM, Encoding.DER)
        for form in (PublicFormat.SubjectPublicKeyInfo, PublicFormat.PKCS1)
    ]
    entry = jwk(key, "one", alg="RS256", use="sig")
    modulus = base64.urlsafe_b64decode(entry["n"] + "==")
    return [*forms, forms[0].strip(), json.dumps(entry).encode(), entry["n"].encode(), modulus, b""]


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
async def test_2_1_a_public_key_taken_for_a_secret(guarded: Guarded, alg: str) -> None:
    guarded.issuer.rotate("one", "RS256")
    await guarded.start(algorithms=["RS256", "ES256"])
    await guarded.accepted(guarded.issuer.sign())
    for secret in public_forms(RSA):
        head = f"{b64(json.dumps({'alg': alg, 'kid': 'one'}))}.{b64(json.dumps(guarded.issuer.claims()))}"
        mac = hmac.new(secret, head.encode(), f"sha{alg[2:]}").digest()
        await guarded.refused(f"{head}.{b64(mac)}", "bad_signature")


async def test_2_1_a_secret_in_the_key_set_is_no_key(guarded: Guarded) -> None:
    entry = {"kty": "oct", "kid": "s", "k": b64(SECRET)}
    guarded.issuer.published = [entry, jwk(ours(guarded.issuer), "one")]
    await guarded.start()
    await attack(
        guarded,
        lambda issuer: compact({"alg": "HS256", "kid": "s"}, issuer.claims(), SECRET, "HS256"),
        "bad_signature",
    )


@pytest.mark.parametrize("alg", ["PS256", "RS512", "RS384"])
async def test_2_1_another_algorithm_than_the_key_is_for(guarded: Guarded, alg: str) -> None:
    guarded.issuer.rotate("one", "RS256")  # its JWK says alg: RS256
    await guarded.start(algorithms=["RS256", "RS384", "RS512", "PS256"])
    await attack(
        guarded,
        lambda issuer: compact({"alg": alg, "kid": "one"}, issuer.claims(), RSA, alg),
        "bad_signature",
    )


@pytest.mark.parametrize(
    "alg", ["ES384", "ES512", "EdDSA", "RS256", "ES256K", "ES521", "HS256", "X"]
)
async def test_2_1_an_algorithm_of_another_key_in_the_header(guarded: Guarded, alg: str) -> None:
    await guarded.start(algorithms=["ES256", "ES384", "ES512", "RS256", "EdDSA"])
    await attack(guarded, signed({"alg": alg}), "bad_signature")


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda s: s[:-1],
    "longer": lambda s: s + b"\0",
    "a bit": lambda s: bytes([s[0] ^ 1]) + s[1:],
    "halves swapped": lambda s: s[32:] + s[:32],
    "zeros, which some readers took (CVE-2022-21449)": lambda s: bytes(len(s)),
    "the order of the curve": lambda s: bytes.fromhex(
        "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551" * 2
    ),
    "ASN.1": lambda s: b"\x30\x44\x02\x20" + s[:32] + b"\x02\x20" + s[32:],
    "one byte": lambda s: b"\0",
}


@pytest.mark.parametrize("how", SPOILED)
async def test_2_1_a_signature_that_was_spoiled(guarded: Guarded, how: str) -> None:
    await guarded.start()

    def forge(issuer: Issuer) -> str:
        head, _, last = issuer.sign(sub="eve").rpartition(".")
        return f"{head}.{b64(SPOILED[how](base64.urlsafe_b64decode(last + '==')))}"

    await attack(guarded, forge, "bad_signature")


async def test_2_1_claims_that_were_changed_under_a_good_signature(guarded: Guarded) -> None:
    await guarded.start()

    def forge(issuer: Issuer) -> str:
        head, _, signature = issuer.sign().split(".")
        return f"{head}.{b64(json.dumps(issuer.claims(sub='root')))}.{signature}"

    await attack(guarded, forge, "bad_signature")


async def test_2_1_a_key_of_ones_own_under_the_issuers_name(guarded: Guarded) -> None:
    await guarded.start()
    own = private_key("ES256")
    await attack(
        guarded,
        lambda issuer: compact({"alg": "ES256", "kid": "one"}, issuer.claims(), own, "ES256"),
        "bad_signature",
    )


RESPELLED: dict[str, Callable[[str], str]] = {
    "padding": lambda t: t + "==",
    "padding of a part": lambda t: t.replace(".", "=.", 1),
    "a blank": lambda t: t.replace(".", " .", 1),
    "a tab": lambda t: t.replace(".", "\t.", 1),
    "a quote": lambda t: f'"{t}"',
    "a comma": lambda t: t + ",",
    "plus": lambda t: t[:-1] + "+",
    "slash": lambda t: t[:-1] + "/",
    "a dot more": lambda t: t + ".",
    "a dot before": lambda t: "." + t,
    "a part more": lambda t: t + ".AA",
    "a part less": lambda t: t.rpartition(".")[0],
    "no ASCII": lambda t: t + "é",
    "JSON serialisation": lambda t: json.dumps(
        dict(zip(("protected", "payload", "signature"), t.split("."), strict=True))
    ),
    "twice": lambda t: f"{t} {t}",
    "with a scheme": lambda t: f"Bearer {t}",
}


@pytest.mark.parametrize("how", RESPELLED)
async def test_2_1_a_good_token_that_is_spelled_otherwise(guarded: Guarded, how: str) -> None:
    await guarded.start()
    await attack(guarded, lambda issuer: RESPELLED[how](issuer.sign()), "malformed")


async def test_2_1_bits_that_nobody_reads_are_no_second_spelling(guarded: Guarded) -> None:
    await guarded.start()
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

    def forge(issuer: Issuer) -> str:
        token = issuer.sign()  # 64 bytes are 86 characters: four bits of the last are not used
        return token[:-1] + letters[letters.index(token[-1]) | 1]

    await attack(guarded, forge, "bad_signature")


# ── 2.2 weak symmetric keys ──


@pytest.mark.parametrize(
    ("alg", "size"), [("HS256", 31), ("HS384", 47), ("HS512", 63), ("HS256", 1)]
)
def test_2_2_a_secret_that_could_be_guessed_is_refused_at_load(alg: str, size: int) -> None:
    policy = {"jwt": {"secret": "x" * size, "algorithms": [alg]}}
    document = {"auth": {"a": policy}, "routes": [{"path": "/*", "respond": 204, "auth": "a"}]}
    with pytest.raises(ConfigError, match=f"it has {size} bytes, and {alg} wants"):
        load_dict(document)


def test_2_2_a_secret_beside_a_key_set_is_refused_at_load() -> None:
    policy = {"jwt": {"secret": SECRET, "jwks": "https://idp.example.com/keys"}}
    document = {"auth": {"a": policy}, "routes": [{"path": "/*", "respond": 204, "auth": "a"}]}
    with pytest.raises(ConfigError, match="a public key must never serve as a secret"):
        load_dict(document)


# ── 2.3 composition of encryption and signature, 2.4 lengths of ciphertexts, 2.5 curves of encryption ──

ENCRYPTED = [
    {"alg": "dir", "enc": "A128GCM"},
    {"alg": "dir", "enc": "A128GCM", "zip": "DEF"},
    {"alg": "RSA-OAEP", "enc": "A256GCM", "cty": "JWT"},
    {
        "alg": "ECDH-ES",
        "enc": "A128GCM",
        "epk": {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
    },
    {"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2**31, "p2s": "AAAA"},
]
"""Nothing is ever decrypted: no plaintext leaks by its length (2.4), no point off a curve is multiplied (2.5), nothing is
inflated, and no count of iterations is honoured."""


@pytest.mark.parametrize("header", ENCRYPTED, ids=lambda header: header["alg"])
@pytest.mark.parametrize("parts", [5, 3])
async def test_2_3_to_2_5_what_is_encrypted_is_refused_unread(
    guarded: Guarded, header: dict[str, Any], parts: int
) -> None:
    await guarded.start()

    def forge(issuer: Issuer) -> str:
        if parts == 5:
            return ".".join(
                (b64(json.dumps({**header, "kid": "one"})), "AA", "AAAA", b64(b"x" * 999), "AA")
            )
        return compact({"kid": "one", **header}, issuer.claims(), ours(issuer), "ES256")

    await attack(guarded, forge, "malformed")


async def test_2_5_a_point_off_the_curve_is_no_key(guarded: Guarded) -> None:
    bad = {**jwk(private_key("ES256"), "bad"), "y": jwk(ours(guarded.issuer))["y"]}
    guarded.issuer.published = [bad, jwk(ours(guarded.issuer), "one")]
    await guarded.start()
    await guarded.accepted(guarded.issuer.sign())
    await guarded.refused(guarded.issuer.sign(kid="bad"), "unknown_key")


# ── 2.6 several encodings of JSON ──

HEADERS = {
    "alg twice": b'{"alg":"none","alg":"ES256","kid":"one"}',
    "kid twice": b'{"alg":"ES256","kid":"two","kid":"one"}',
    "alg twice, escaped": b'{"alg":"ES256","\\u0061lg":"none","kid":"one"}',
    "UTF-16": '{"alg":"ES256","kid":"one"}'.encode("utf-16-le"),
    "UTF-16 with a mark": '{"alg":"ES256","kid":"one"}'.encode("utf-16"),
    "UTF-32": '{"alg":"ES256","kid":"one"}'.encode("utf-32-be"),
    "a mark": b'\xef\xbb\xbf{"alg":"ES256","kid":"one"}',
    "no UTF-8": b'{"alg":"ES256","kid":"one","x":"\xff"}',
    "overlong UTF-8": b'{"alg":"ES256","kid":"one","x":"\xc0\xae"}',
    "half a character": b'{"alg":"ES256","kid":"one","x":"\\ud800"}',
    "a comment": b'{"alg":"ES256",/* */"kid":"one"}',
    "single quotes": b"{'alg':'ES256','kid':'one'}",
    "a comma too many": b'{"alg":"ES256","kid":"one",}',
    "NaN": b'{"alg":"ES256","kid":"one","x":NaN}',
    "a list": b'["ES256"]',
    "a text": b'"ES256"',
    "nothing": b" ",
    "more behind it": b'{"alg":"ES256","kid":"one"}{}',
    "deep": b'{"alg":"ES256","kid":"one","x":' + b"[" * 2000 + b"]" * 2000 + b"}",
}


@pytest.mark.parametrize("how", HEADERS)
async def test_2_6_a_header_that_readers_could_read_differently(guarded: Guarded, how: str) -> None:
    await guarded.start()
    await attack(guarded, signed(HEADERS[how]), "malformed")


CLAIMS = {
    "sub twice": b'{"sub":"root",%b',
    "exp twice, escaped": b'{"e\\u0078p":99999999999,%b',
    "aud twice": b'{"aud":"other",%b',
    "twice further in": b'{"x":{"a":1,"a":2},%b',
    "no UTF-8": b'{"x":"\xff",%b',
    "half a character": b'{"x":"\\udfff",%b',
    "Infinity": b'{"x":Infinity,%b',
    "1e999": b'{"x":1e999,%b',
    "deep": b'{"x":' + b"[" * 1500 + b"]" * 1500 + b",%b",
    "a list": b"[{%b]",
    "more behind it": b"{%b{}",
}


@pytest.mark.parametrize("how", CLAIMS)
async def test_2_6_claims_that_readers_could_read_differently(guarded: Guarded, how: str) -> None:
    await guarded.start()
    await attack(guarded, signed({}, CLAIMS[how]), "malformed")


@pytest.mark.parametrize("claims", [b"", b"null", b"5", b'"text"'])
async def test_2_6_claims_that_are_none(guarded: Guarded, claims: bytes) -> None:
    await guarded.start()
    await attack(
        guarded,
        lambda issuer: compact({"alg": "ES256", "kid": "one"}, claims, ours(issuer), "ES256"),
        "malformed",
    )


# ── 2.7 substitution ──


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "other"},
        {"aud": "API"},
        {"aud": "api/"},
        {"aud": "api\0"},
        {"aud": "ap"},
        {"aud": "*"},
        {"aud": ""},
        {"aud": []},
        {"aud": ["other"]},
        {"aud": [["api"]]},
        {"aud": {"api": "api"}},
        {"aud": None},
        {"iss": None},
        {"iss": "https://evil.example.com/"},
        {"iss": ["https://evil.example.com/"]},
        {"iss": ""},
    ],
    ids=str,
)
async def test_2_7_a_token_that_was_meant_for_somebody_else(
    guarded: Guarded, claims: dict[str, Any]
) -> None:
    await guarded.start()
    await attack(guarded, signed({}, **claims), "wrong_audience")


@pytest.mark.parametrize(
    "change", [lambda u: u.rstrip("/"), lambda u: u + "/", str.upper, lambda u: u + "x"]
)
async def test_2_7_an_issuer_that_is_almost_ours(
    guarded: Guarded, change: Callable[[str], str]
) -> None:
    await guarded.start()
    await attack(
        guarded, lambda issuer: signed({}, iss=change(issuer.url))(issuer), "wrong_audience"
    )


async def test_2_7_the_key_of_one_issuer_does_not_vouch_for_another(guarded: Guarded) -> None:
    async with Issuer(guarded.clock) as other:
        policies = {
            "staff": guarded.settings(),
            "partners": {"jwt": {"issuer": other.url, "audience": "api"}},
        }
        await guarded.start(policies)
        for signer, named in ((guarded.issuer, other), (other, guarded.issuer)):
            before = len(guarded.up.requests)
            problem(await guarded.ask(signer.sign(iss=named.url)), "unauthenticated", 401)
            assert len(guarded.up.requests) == before
        await guarded.accepted(guarded.issuer.sign())
        await guarded.accepted(other.sign())


# ── 2.8 one kind of token for another ──


@pytest.mark.parametrize(
    "typ",
    [
        *(
            "logout+jwt",
            "secevent+jwt",
            "dpop+jwt",
            "application/logout+jwt",
            "token-introspection+jwt",
        ),
        *("LOGOUT+JWT", "JWE", "", 5, ["JWT"]),
    ],
    ids=str,
)
async def test_2_8_a_token_of_another_kind(guarded: Guarded, typ: Any) -> None:
    await guarded.start()
    await attack(guarded, signed({"typ": typ}), "malformed")


@pytest.mark.parametrize("typ", ["JWT", None, "id+jwt"])
async def test_2_8_an_id_token_where_access_tokens_are_wanted(guarded: Guarded, typ: Any) -> None:
    await guarded.start(typ="at+jwt")
    key = ours(guarded.issuer)
    fields = {"alg": "ES256", "kid": "one", **({} if typ is None else {"typ": typ})}
    await guarded.refused(compact(fields, guarded.issuer.claims(), key, "ES256"), "malformed")
    await guarded.accepted(guarded.issuer.sign(header={"typ": "at+jwt"}))


@pytest.mark.parametrize("claim", ["client_id", "jti"])
async def test_2_8_a_token_without_what_its_kind_always_has(guarded: Guarded, claim: str) -> None:
    await guarded.start(require=["client_id", "jti"])
    whole = {"client_id": "app", "jti": "1"}
    await guarded.refused(guarded.issuer.sign(**{**whole, claim: None}), "malformed")
    await guarded.accepted(guarded.issuer.sign(**whole))


# ── 2.9 indirect attacks ──

KIDS = [
    "../../../../../../dev/null",
    "/dev/null",
    "..%2f..%2fetc%2fpasswd",
    "one' OR '1'='1",
    "one\0",
    "one\r\nX: y",
    "$(id)",
    "| id",
    "http://127.0.0.1:1/keys",
    "__class__",
    "ONE",
    "{claim.sub}",
    "",
    "😀",
]


@pytest.mark.parametrize("kid", KIDS, ids=repr)
async def test_2_9_a_kid_is_a_name_and_nothing_else(guarded: Guarded, kid: str) -> None:
    await guarded.start(algorithms=["ES256"])
    await attack(guarded, signed({"kid": kid}), "unknown_key")
    await guarded.refused(
        compact({"alg": "HS256", "kid": kid}, guarded.issuer.claims(), b"\0", "HS256"),
        "bad_signature",
    )


@pytest.mark.parametrize(
    "kid", [5, None, ["one"], {"one": 1}, True, "x" * 257], ids=lambda kid: str(kid)[:9]
)
async def test_2_9_a_kid_that_is_no_name(guarded: Guarded, kid: Any) -> None:
    await guarded.start()
    await attack(guarded, signed({"kid": kid}), "malformed")


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c", "all"])
async def test_2_9_a_key_that_the_token_brings_along_is_not_looked_at(
    guarded: Guarded, name: str, origin: MakeOrigin
) -> None:
    await guarded.start(algorithms=["RS256", "ES256"])
    evil = await origin()
    brought = {
        "jku": f"{evil.url}/jwks.json",
        "x5u": f"{evil.url}/cert.pem",
        "jwk": jwk(OTHER_RSA, "evil", alg="RS256"),
        "x5c": [base64.b64encode(OTHER_RSA.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()],
    }  # fmt: skip
    fields = brought if name == "all" else {name: brought[name]}
    for kid, outcome in (("one", "bad_signature"), ("evil", "unknown_key")):
        header = {"alg": "RS256", "kid": kid, **fields}
        await guarded.refused(compact(header, guarded.issuer.claims(), OTHER_RSA, "RS256"), outcome)
    # Of a good token they are ignored: it is what its issuer has signed.
    await guarded.accepted(signed(fields)(guarded.issuer))
    assert evil.connections == []


@pytest.mark.parametrize(
    "more",
    [
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": True},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"crit": "exp"},
        {"b64": False},
        {"zip": "DEF"},
    ],
    ids=str,
)
async def test_2_9_what_the_reader_is_told_to_do_is_not_done(
    guarded: Guarded, more: dict[str, Any]
) -> None:
    await guarded.start()
    await attack(guarded, signed(more), "malformed")


# ── floods, size, memory ──


async def test_a_flood_of_unknown_keys_is_no_flood_for_the_issuer(guarded: Guarded) -> None:
    await guarded.start()
    good = guarded.issuer.sign()
    await guarded.accepted(good)
    for round_ in range(3):
        guarded.clock.advance(COOL_DOWN + 1)
        for number in range(100):
            await guarded.refused(guarded.issuer.sign(kid=f"{round_}-{number}"), "unknown_key")
        await guarded.accepted(good)
    assert guarded.issuer.asked["/keys"] == 4


@pytest.mark.parametrize("size", [LONGEST + 1, 15_000])
async def test_a_huge_token_is_not_even_hashed(guarded: Guarded, size: int) -> None:
    await guarded.start()
    token = guarded.issuer.sign()
    await guarded.refused(token + "A" * (size - len(token)), "malformed")
    await guarded.refused("A" * size, "malformed")
    await guarded.refused("." * size, "malformed")
    assert guarded.issuer.asked == {}


async def test_a_large_token_that_is_good_is_let_in(guarded: Guarded) -> None:
    await guarded.start()
    token = guarded.issuer.sign(x="y" * 5700)
    assert LONGEST - 400 < len(token) <= LONGEST
    await guarded.accepted(token)


async def test_who_shares_a_token_s_beginning_or_end_is_nobody(guarded: Guarded) -> None:
    await guarded.start()
    good = guarded.issuer.sign()
    await guarded.accepted(good)
    head, claims, signature = good.split(".")
    for forged in (
        good[:-1],
        good + "A",
        f"{head}.{claims}A.{signature}",
        f"{head}.{claims[:-1]}.{signature}",
        f"{b64(json.dumps({'alg': 'ES256', 'kid': 'one', 'x': 1}))}.{claims}.{signature}",
    ):
        answer = await guarded.ask(forged)
        problem(answer, "unauthenticated", 401)
    assert len(guarded.up.requests) == 1


async def test_what_is_remembered_never_mixes_two_policies(guarded: Guarded) -> None:
    """One token, good for one route and not for another: what one remembers, the other does not believe."""
    up = await guarded._origin()
    policies = {"staff": guarded.settings(), "other": guarded.settings(audience="elsewhere")}
    routes = [{"name": name, "path": f"/{name}", "to": up.url, "auth": name} for name in policies]
    running = await guarded._gateway({"routes": routes}, auth=policies, clock=guarded.clock)
    client = await guarded._raw(running)
    field = b"Authorization: Bearer " + guarded.issuer.sign().encode()
    for _ in range(3):
        assert (await client.ask(get(b"/staff", field))).status == 200
        problem(await client.ask(get(b"/other", field)), "unauthenticated", 401)


@pytest.mark.parametrize("value", [b"Bearer", b"Bearer ", b"Bearer\t", b"bearer  \t "])
async def test_a_scheme_without_a_token(guarded: Guarded, value: bytes) -> None:
    await guarded.start()
    answer = await guarded.client.ask(get(b"/", b"Authorization: " + value))
    problem(answer, "unauthenticated", 401)
    assert guarded.up.requests == []


@pytest.mark.parametrize(
    "where", [b"/?access_token=%b", b"/?token=%b", b"/?authorization=Bearer%%20%b"]
)
async def test_a_token_in_the_target_is_no_credential(guarded: Guarded, where: bytes) -> None:
    await guarded.start()
    token = guarded.issuer.sign().encode()
    problem(await guarded.client.ask(get(where % token)), "unauthenticated", 401)
    assert guarded.counted("missing") == 1
