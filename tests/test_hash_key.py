"""`gateway hash-key`, as a real process: a key once, and an entry that lets it in."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from gateway.config.keys import read_keys

ROOT = Path(__file__).parent.parent
OLD = "an-old-key-of-another-gateway"


def hash_key(*words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", "hash-key", *words],
        cwd=ROOT,
        input=given,
        capture_output=True,
        timeout=30,
        check=False,
    )


def test_a_fresh_key_is_shown_once_with_the_entry_to_paste() -> None:
    words = (
        "--consumer",
        "acme: 1",
        "--expires",
        "2027-01-31",
        "--scopes",
        "orders,read",
        "--scopes",
        "x",
    )
    done = hash_key(*words, "--id", "0123")
    assert done.returncode == 0
    shown = done.stdout.decode()
    [key] = re.findall(r"^    (gw_\S{43})$", shown, re.MULTILINE)
    assert shown.count(key) == 1
    entry = shown[shown.index("  - id") :]
    [read] = read_keys("keys:\n" + entry, "keys.yaml")
    assert read.sha256 == sha256(key.encode()).digest()
    assert (read.id, read.consumer, read.scopes) == ("0123", "acme: 1", ("orders", "read", "x"))
    assert read.expires == 1801440000.0


def test_no_two_keys_are_alike_and_programs_get_json() -> None:
    one, other = (json.loads(hash_key("--json").stdout) for _ in range(2))
    assert one["key"] != other["key"]
    assert one["entry"]["id"] != other["entry"]["id"]
    assert one["entry"]["sha256"] == sha256(one["key"].encode()).hexdigest()


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_key_on_standard_input_is_hashed_and_not_shown(end: str) -> None:
    done = hash_key("--stdin", given=(OLD + end).encode())
    assert done.returncode == 0
    assert sha256(OLD.encode()).hexdigest() in done.stdout.decode()
    assert OLD not in done.stdout.decode()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (b"short", b"can be guessed"),
        (b"", b"can be guessed"),
        (b"a key with spaces in between", b"without spaces"),
        (b"x" * 30 + b"\n" + b"x" * 30, b"one line"),
        (b"x" * 2000, b"at most 1024"),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(given: bytes, why: bytes) -> None:
    done = hash_key("--stdin", given=given)
    assert done.returncode == 1
    assert why in done.stderr
    assert not done.stdout
    assert len(given) < 6 or given not in done.stderr


def test_a_date_that_is_none_is_wrong_usage() -> None:
    done = hash_key("--expires", "31.1.2027")
    assert done.returncode == 2
    assert b"2027-01-31" in done.stderr


def test_a_key_is_never_an_argument() -> None:
    assert hash_key(OLD).returncode == 2
