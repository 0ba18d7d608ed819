"""Properties: whatever a client sends or a file holds, the outcome is one of those that are meant."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from gateway import errors
from gateway.auth.api_key import make
from gateway.auth.attempts import bucket
from gateway.auth.basic import credentials
from gateway.config import ConfigError
from gateway.config.auth import ApiKey
from gateway.config.htpasswd import read_htpasswd
from gateway.config.keys import Key, read_keys
from tests.auth.keykit import World, asking, keys_file

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

# Heads are read as UTF-8, with surrogates for bytes that are none.
field = st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
words = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)
yaml = st.lists(
    st.sampled_from(
        ["keys:", "\n", "  - ", "{", "}", "[", "]", "id: a", "sha256: ", "0" * 64, ", ", "expires: ",
         "2027-01-31", "2027-99-99", "scopes: ", "claims: ", "&a ", "*a", "!x ", "'", '"', "<<: ", "null", "\0", "é"]
    )
).map("".join)  # fmt: skip


@given(st.lists(field, min_size=1, max_size=2))
def test_a_field_is_credentials_or_malformed(fields: list[str]) -> None:
    for scheme in ("Basic ", ""):
        try:
            user, password = credentials([scheme + one for one in fields])
        except ValueError:
            continue
        assert ":" not in user
        assert not any(sign < 32 or sign == 127 for sign in user.encode() + password)


@given(words.filter(lambda text: ":" not in text), words)
def test_what_was_meant_is_what_is_read(user: str, password: str) -> None:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    assert credentials([f"Basic {token}"]) == (user, password.encode())


@given(st.lists(field, min_size=1, max_size=3), st.text(max_size=40))
def test_no_field_is_taken_for_a_key_that_is_not_there(
    tmp_path_factory: pytest.TempPathFactory, fields: list[str], query: str
) -> None:
    folder: Path = tmp_path_factory.getbasetemp()
    file = keys_file(folder, f'id: k, sha256: "{"0" * 64}"')
    world = World()
    for place in ({}, {"query": "k"}, {"cookie": "k"}, {"header": "Authorization"}):
        keys = make("p", ApiKey(keys_file=file, attempts=None, **place), world.tools)
        names = ("X-Api-Key", "Authorization", "Cookie")
        asked = asking(*((name, one) for name in names for one in fields), query=f"k={query}")
        try:
            assert keys.authenticate(asked) is None
        except errors.Unauthenticated as error:
            assert error.outcome in ("unknown_key", "malformed")  # noqa: PT017


@given(yaml | st.text(max_size=80))
def test_a_file_of_keys_is_read_or_its_mistakes_are_told(text: str) -> None:
    try:
        assert all(isinstance(key, Key) for key in read_keys(text, "k"))
    except ConfigError as error:
        assert error.problems  # noqa: PT017


@given(st.text(max_size=80))
def test_a_file_of_htpasswd_is_read_or_its_mistakes_are_told(text: str) -> None:
    try:
        read_htpasswd(text, "h")
    except ConfigError as error:
        assert error.problems  # noqa: PT017


@given(st.text(max_size=45) | st.ip_addresses().map(str))
def test_every_address_has_a_bucket_of_few_bytes(address: str) -> None:
    assert len(bucket(address)) <= 45
