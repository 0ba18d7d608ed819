from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe.masks import Masks


@pytest.mark.parametrize(
    ("query", "masked"),
    [
        ("", ""),
        ("page=2&sort=name", "page=2&sort=name"),
        ("token=abc", "token=***"),
        ("page=2&api_key=abc&sort=name", "page=2&api_key=***&sort=name"),
        ("Access_Token=abc", "Access_Token=***"),
        ("%74oken=abc", "%74oken=***"),
        ("token=a%20b&q=%C3%A9", "token=***&q=%C3%A9"),
        ("a=1;token=abc;b=2", "a=1;token=***;b=2"),
        ("token=abc=def==", "token=***"),
        ("token", "token"),
        ("mytoken=abc&tokens=5", "mytoken=abc&tokens=5"),
        ("token=a&token=b", "token=***&token=***"),
    ],
)
def test_secret_query_parameters_are_masked_and_nothing_else(query: str, masked: str) -> None:
    assert Masks().query(query) == masked


def test_names_of_the_configuration_are_masked_too() -> None:
    masks = Masks(["query.Sig", "header.X-Tenant", "cookie.sid"])
    assert masks.query("sig=1&token=2&a=3") == "sig=***&token=***&a=3"
    assert masks.hides("header.x-tenant")
    assert masks.hides("cookie.sid")
    assert not masks.hides("cookie.theme")


@pytest.mark.parametrize("name", ["authorization", "Cookie", "set-cookie", "X-Api-Key"])
def test_credentials_in_headers_are_always_secret(name: str) -> None:
    assert Masks().hides(f"header.{name}")


@pytest.mark.parametrize("word", ["token", "query.", "body.token", ".x", ""])
def test_a_mask_that_names_no_header_cookie_or_parameter_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"header\.NAME, cookie\.NAME or query\.NAME"):
        Masks([word])


def test_the_query_of_a_url_is_masked() -> None:
    assert Masks().url("https://a.test/x?token=1&b=2") == "https://a.test/x?token=***&b=2"
    assert Masks().url("https://a.test/token=1") == "https://a.test/token=1"


@given(st.text(alphabet="ab&;=%+?7token4.", max_size=40), st.text("xyz", min_size=4, max_size=8))
def test_no_value_of_a_secret_parameter_is_ever_left(around: str, secret: str) -> None:
    assert secret not in Masks().query(f"{around}&token={secret}&{around}")
