"""Which keys of a JWKS are used, and for what."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.auth import keys
from tests.kit.issuer import OTHER_RSA, RSA, SECRET, SMALL_RSA, jwk, private_key

ALL = frozenset(("RS256", "PS256", "RS512", "ES256", "ES384", "ES512", "EdDSA"))
EC = private_key("ES256")
GOOD = jwk(EC, "good")


def algorithms(entry: dict[str, Any]) -> list[str]:
    found, problems = keys.read({"keys": [entry]}, ALL)
    assert problems == []
    return sorted(found[0].algorithms)


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        (jwk(RSA), ["PS256", "RS256", "RS512"]),
        (jwk(RSA, alg="RS512"), ["RS512"]),
        (jwk(EC), ["ES256"]),
        (jwk(private_key("ES384")), ["ES384"]),
        (jwk(private_key("ES512"), alg="ES512"), ["ES512"]),
        (jwk(private_key("EdDSA")), ["EdDSA"]),
        (jwk(private_key("EdDSA"), alg="Ed25519"), ["EdDSA"]),
        (jwk(private_key("Ed448"), use="sig", key_ops=["verify"]), ["EdDSA"]),
    ],
)
def test_a_key_is_for_the_algorithms_of_its_kind_or_the_one_it_names(
    entry: dict[str, Any], wanted: list[str]
) -> None:
    assert algorithms(entry) == wanted


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("text", "no JSON object"),
        ({}, "kind"),
        ({"kty": "oct", "k": "AAAA", "alg": "HS256"}, "a secret"),
        ({"kty": "XYZ"}, "kind"),
        ({"kty": ["RSA"]}, "kind"),
        ({"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}, "none of the algorithms"),
        ({"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"}, "none of the algorithms"),
        ({"kty": "EC", "crv": ["P-256"]}, "none of the algorithms"),
        ({"kty": "OKP", "crv": "X25519", "x": "AA"}, "none of the algorithms"),
        ({"kty": "EC", "crv": "P-256", "x": GOOD["x"], "y": GOOD["x"]}, "can not be read"),
        ({"kty": "RSA", "n": "AQAB"}, "can not be read"),
        ({"kty": "RSA", "n": 5, "e": 3}, "can not be read"),
        (jwk(SMALL_RSA), "1024 bits"),
        (jwk(RSA, use="enc"), "not for signatures"),
        (jwk(RSA, key_ops=["encrypt"]), "not for checking"),
        (jwk(RSA, alg="RSA-OAEP"), "none of the algorithms"),
        (jwk(RSA, alg="HS256"), "none of the algorithms"),
        (jwk(EC, alg="RS256"), "none of the algorithms"),
        (jwk(EC, alg="none"), "none of the algorithms"),
        (jwk(EC, alg=["ES256"]), "none of the algorithms"),
        (jwk(EC, d="AAAA"), "private"),
        (jwk(EC, kid=5), "kid"),
    ],
)
def test_what_can_not_be_used_is_left_out_and_costs_no_other_key(entry: Any, why: str) -> None:
    found, problems = keys.read({"keys": [entry, GOOD]}, ALL)
    assert [key.kid for key in found] == ["good"]
    assert len(problems) == 1
    assert why in problems[0]
    assert problems[0].startswith("key 1: ")


@pytest.mark.parametrize("document", [{}, {"keys": {}}, {"keys": None}, {"keys": "x"}])
def test_what_is_no_jwks_is_refused(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no JWKS"):
        keys.read(document, ALL)


def test_there_is_an_end_to_the_number_of_keys() -> None:
    found, problems = keys.read({"keys": [jwk(EC, str(n)) for n in range(100)]}, ALL)
    assert len(found) == keys.MOST
    assert problems == ["100 keys, of which the first 64 are used"]


def test_a_key_is_found_by_its_name_and_one_without_a_name_by_any() -> None:
    named, nameless = keys.read({"keys": [GOOD, jwk(OTHER_RSA)]}, ALL)[0]
    ring = keys.Ring([named])
    assert ring.find("good", "RS256") == (named,), "which then does not fit"
    assert ring.find("bad", "ES256") is None
    assert ring.find(None, "ES256") == (named,)
    assert ring.find(None, "RS256") is None
    both = keys.Ring([named, nameless])
    assert both.find("good", "ES256") == (named,)
    assert both.find("bad", "RS256") == (nameless,)


def test_a_key_that_is_still_there_stays_what_it_is_and_others_die() -> None:
    before = keys.Ring(keys.read({"keys": [GOOD, jwk(RSA, "old")]}, ALL)[0])
    after = before.replaced(keys.read({"keys": [jwk(OTHER_RSA, "new"), GOOD]}, ALL)[0])
    assert after.find("good", "ES256") == before.find("good", "ES256")
    assert [key.live for key in before.keys] == [True, False]
    assert [key.live for key in after.keys] == [True, True]


@pytest.mark.parametrize("change", [{"alg": "ES256"}, {"kid": "other"}])
def test_a_key_with_another_name_or_kind_is_the_same_only_in_every_respect(
    change: dict[str, str],
) -> None:
    before = keys.Ring(keys.read({"keys": [jwk(RSA, "a")]}, ALL)[0])
    renamed = {**jwk(RSA, "a"), **({"alg": "PS256"} if "alg" in change else change)}
    before.replaced(keys.read({"keys": [renamed]}, ALL)[0])
    assert not before.keys[0].live


@pytest.mark.parametrize(("alg", "wanted"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_a_secret_that_is_shorter_than_the_hash_is_refused(alg: str, wanted: int) -> None:
    with pytest.raises(ValueError, match=f"it has {wanted - 1} bytes, and {alg} wants {wanted}"):
        keys.secret("x" * (wanted - 1), [alg])
    assert keys.secret("x" * wanted, [alg]).algorithms == {alg}
    assert SECRET.encode() not in keys.secret(SECRET, [alg]).mark


def test_a_secret_is_for_hs_only() -> None:
    with pytest.raises(ValueError, match="RS256 takes a public key"):
        keys.secret(SECRET, ["HS256", "RS256"])
