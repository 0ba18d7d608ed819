"""Files of htpasswd: which hashes count, which are refused, and that no password is cut."""

from __future__ import annotations

import subprocess
import sys

import argon2
import bcrypt
import pytest
from passlib.hash import apr_md5_crypt

from gateway.config import ConfigError
from gateway.config.htpasswd import read_htpasswd
from tests.kit.programs import need

LONG = "x" * 72
ARGON2 = argon2.PasswordHasher(1, 8, 1)


def bcrypt_of(password: bytes, prefix: bytes = b"2b") -> str:
    hashed = bcrypt.hashpw(password, bcrypt.gensalt(4))
    return hashed.replace(b"$2b$", b"$%b$" % prefix).decode()


def argon2_of(password: str, kind: argon2.Type = argon2.Type.ID) -> str:
    return argon2.PasswordHasher(1, 8, 1, type=kind).hash(password)


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_htpasswd(text, "htpasswd")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    "hashed",
    [
        bcrypt_of(b"secret", b"2a"),
        bcrypt_of(b"secret", b"2b"),
        bcrypt_of(b"secret", b"2y"),
        argon2_of("secret", argon2.Type.I),
        argon2_of("secret"),
        apr_md5_crypt.hash("secret"),
    ],
    ids=["2a", "2b", "2y", "argon2i", "argon2id", "apr1"],
)
def test_each_kind_of_hash_knows_its_password_and_no_other(hashed: str) -> None:
    verify = read_htpasswd(f"ann:{hashed}\n", "htpasswd")["ann"].verify
    assert verify(b"secret")
    for wrong in (b"", b"secre", b"secret ", b"Secret", b"secret\0", b"x" * 72, b"x" * 1024):
        if b"\0" not in wrong:  # those never come so far
            assert not verify(wrong), wrong


@pytest.mark.parametrize("option", ["-B", "-m"])
def test_what_htpasswd_writes_is_read(option: str) -> None:
    made = subprocess.run(
        [need("htpasswd"), "-nb", option, "ann", "sécret"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    verify = read_htpasswd(made, "htpasswd")["ann"].verify
    assert verify("sécret".encode())
    assert not verify("sécret".encode("latin-1"))


@pytest.mark.parametrize(
    ("option", "why"),
    [("-s", "SHA-1"), ("-d", "neither a password itself"), ("-p", "neither a password itself"),
     ("-2", "not known"), ("-5", "not known")],
)  # fmt: skip
def test_what_is_no_defence_is_refused_with_its_line_and_without_its_words(
    option: str, why: str
) -> None:
    made = subprocess.run(
        [need("htpasswd"), "-nb", option, "ann", "geheim12"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    [found] = mistakes(f"# users\n\n{made}\n")
    assert found.startswith("htpasswd:3:5: ")
    assert why in found
    assert "htpasswd -B" in found
    assert made.partition(":")[2] not in found


def test_bcrypt_looks_at_72_bytes_so_a_longer_password_is_never_taken_for_its_beginning() -> None:
    verify = read_htpasswd(f"ann:{bcrypt_of(LONG.encode())}", "htpasswd")["ann"].verify
    assert verify(LONG.encode())
    assert not verify(LONG.encode() + b"y")
    assert not verify(LONG.encode() + b"x")
    assert not verify(LONG.encode()[:71])


def test_a_password_that_is_too_long_for_bcrypt_costs_a_hash_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked: list[bytes] = []
    monkeypatch.setattr(bcrypt, "checkpw", lambda password, _: checked.append(password))
    verify = read_htpasswd(f"ann:{bcrypt_of(b'x')}", "htpasswd")["ann"].verify
    assert not verify(b"x" * 73)
    assert len(checked) == 1


def test_argon2_takes_passwords_of_any_length() -> None:
    verify = read_htpasswd(f"ann:{argon2_of(LONG + 'yy')}", "htpasswd")["ann"].verify
    assert verify(LONG.encode() + b"yy")
    assert not verify(LONG.encode() + b"y")


def test_every_mistake_of_a_file_is_told_at_once() -> None:
    good = bcrypt_of(b"x")
    text = f"ann:{good}\nbob\n:{good}\nann:{good}\ncid:\ndan:$2x$04${'a' * 53}\neve:{good[:-1]}\n"
    costly = f"fay:{good.replace('$04$', '$20$')}\n"
    greedy = f"gus:{argon2_of('x').replace('m=8', 'm=4000000')}\n"
    slow = f"hal:{argon2_of('x').replace('t=1', 't=99999999')}\n"
    data = f"ivy:{argon2_of('x', argon2.Type.D)}\n"
    found = mistakes(text + costly + greedy + slow + data + "jan:$apr1$x$y\nkim:$argon2id$x\n")
    for one, wanted in zip(
        found,
        (
            "htpasswd:2:1: a name, a colon and a hash are wanted",
            "htpasswd:3:1: a name, a colon",
            "htpasswd:4:1: this name stands in line 1 already",
            "htpasswd:5:5: there is no hash",
            "htpasswd:6:5: this kind of bcrypt had a mistake in it",
            "htpasswd:7:5: this bcrypt hash is damaged",
            "htpasswd:8:5: a bcrypt cost above 16",
            "htpasswd:9:5: this argon2 hash takes more memory or time",
            "htpasswd:10:5: this argon2 hash takes more memory or time",
            "htpasswd:11:5: argon2d tells",
            "htpasswd:12:5: this apr1 hash is damaged",
            "htpasswd:13:5: this argon2 hash is damaged",
        ),
        strict=True,
    ):
        assert one.startswith(wanted), one
    assert good not in "".join(found)


def test_comments_blank_lines_line_ends_of_windows_and_comments_of_nginx_are_taken() -> None:
    users = read_htpasswd(
        f"# x\r\n\r\nann:{bcrypt_of(b'x')}:who is ann\r\nb c:{bcrypt_of(b'y')}", "h"
    )
    assert [*users] == ["ann", "b c"]
    assert users["ann"].verify(b"x")
    assert read_htpasswd("", "h") == {}


def test_a_library_that_is_missing_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    [found] = mistakes(f"ann:{bcrypt_of(b'x')}")
    assert "the package bcrypt: pip install 'gateway[auth]'" in found


def test_nothing_that_is_shown_has_a_hash_in_it() -> None:
    users = read_htpasswd(f"ann:{bcrypt_of(b'x')}", "h")
    assert repr(users) == "{'ann': <Entry>}"
