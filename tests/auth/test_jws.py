"""Signed tokens: examples of the RFCs, a few keys at most, and no text that could make more than a refusal of it."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth import jws, keys
from tests.kit.issuer import OTHER_RSA, RSA, b64, compact, jwk, private_key

ALL = frozenset(("RS256", "ES256"))

# RFC 7515 appendix A: what they sign is the same in all three.
CLAIMS = {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
SIGNED = (
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
)
RS256 = (
    f"eyJhbGciOiJSUzI1NiJ9.{SIGNED}."
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5"
    "jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb"
    "1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QO"
    "YEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
RS256_KEY = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0B"
    "m4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5re"
    "xMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFv"
    "UK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
    "e": "AQAB",
}
ES256 = (
    f"eyJhbGciOiJFUzI1NiJ9.{SIGNED}."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
ES256_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}


@pytest.mark.parametrize(("token", "key"), [(RS256, RS256_KEY), (ES256, ES256_KEY)])
def test_the_examples_of_rfc_7515_are_good(token: str, key: dict[str, str]) -> None:
    known, problems = keys.read({"keys": [key]}, ALL)
    assert problems == []
    assert jws.verified(token, jws.header_of(token), known) == (CLAIMS, known[0])
    other = token.replace(SIGNED, b64(b'{"iss":"eve"}'))
    with pytest.raises(jws.BadSignature):
        jws.verified(other, jws.header_of(other), known)


def test_a_token_is_tried_with_a_few_keys_only() -> None:
    entries = [jwk(private_key("ES256"), alg="ES256") for _ in range(jws.MOST_TRIED)]
    signing = private_key("ES256")
    token = compact({"alg": "ES256"}, {"sub": "a"}, signing, "ES256")
    others = [jwk(RSA), jwk(OTHER_RSA)]  # of another kind: not counted
    late = keys.read({"keys": [*others, *entries, jwk(signing)]}, ALL)[0]
    with pytest.raises(jws.BadSignature):
        jws.verified(token, jws.header_of(token), late)
    in_time = keys.read({"keys": [*others, *entries[1:], jwk(signing)]}, ALL)[0]
    assert jws.verified(token, jws.header_of(token), in_time)[0] == {"sub": "a"}


SIGNING = private_key("ES256")
KNOWN = keys.read({"keys": [jwk(SIGNING, "k")]}, ALL)[0]
GOOD = compact({"alg": "ES256", "kid": "k"}, {"sub": "ann"}, SIGNING, "ES256")


def read(token: str) -> dict[str, object] | None:
    try:
        return jws.verified(token, jws.header_of(token), KNOWN)[0]
    except (jws.Malformed, jws.BadSignature):
        return None


@given(st.text(st.characters(codec=None), max_size=200))
def test_no_text_is_more_than_refused(token: str) -> None:
    assert read(token) is None


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=80))
def test_no_parts_are_more_than_refused(head: bytes, claims: bytes, signature: bytes) -> None:
    assert read(f"{b64(head)}.{b64(claims)}.{b64(signature)}") is None


@given(st.integers(0, len(GOOD) - 1), st.characters(max_codepoint=255))
def test_no_character_of_a_good_token_can_be_another(at: int, character: str) -> None:
    token = GOOD[:at] + character + GOOD[at + 1 :]
    assert (read(token) is not None) == (token == GOOD)


@given(st.integers(0, len(GOOD)), st.text(max_size=3))
def test_nothing_can_be_put_into_a_good_token(at: int, more: str) -> None:
    token = GOOD[:at] + more + GOOD[at:]
    assert (read(token) is not None) == (token == GOOD)


def test_the_longest_of_any_shape_is_refused_soon() -> None:
    before = time.perf_counter()
    for character in ".A=e\0":
        assert read(character * jws.LONGEST) is None
        assert read("a." + character * (jws.LONGEST - 4) + ".a") is None
        assert read(f"{b64(b'[' * 6000)}.{b64(b'{}')}.AA"[: jws.LONGEST]) is None
    assert time.perf_counter() - before < 2
