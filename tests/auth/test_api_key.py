"""API keys: what their file may hold, who is let in by them, and what becomes of them when the file changes."""

from __future__ import annotations

import asyncio
import logging
import timeit
from pathlib import Path
from typing import Any

import pytest

from gateway import errors
from gateway.auth.api_key import ApiKeys, make
from gateway.auth.files import INTERVAL
from gateway.config import ConfigError
from gateway.config.auth import ApiKey, Attempts
from gateway.config.keys import read_keys
from gateway.files import SETTLE
from gateway.tasks import spawn
from tests.auth.keykit import World, asking, digest, keys_file

GOOD = "gw_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"
END_OF_2027_01_31 = 1801440000.0


@pytest.fixture
def world() -> World:
    return World()


def policy(world: World, file: str, **settings: Any) -> ApiKeys:
    return make("partners", ApiKey(keys_file=file, **settings), world.tools)


def entry(key: str = GOOD, more: str = "", name: str = "k1") -> str:
    return f'id: {name}, sha256: "{digest(key)}"{", " if more else ""}{more}'


def refusal(keys: ApiKeys, exchange: Any) -> errors.Unauthenticated:
    with pytest.raises(errors.Unauthenticated) as caught:
        keys.authenticate(exchange)
    assert GOOD not in caught.value.detail
    return caught.value


# ── the file ──


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_keys(text, "keys.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_every_mistake_is_told_at_its_place_and_none_repeats_a_value() -> None:
    secret = "sk_live_abcdefghijklmnop"
    found = mistakes(
        "keys:\n"
        f"  - {{id: a, sha256: {secret}, consumr: x, expires: 2027-02-31}}\n"
        f'  - {{id: a, sha256: "{"0" * 64}", scopes: [a, "b c"], claims: {{id: 3}}}}\n'
        f'  - {{id: "c\\n", sha256: "{"0" * 64}"}}\n'
        f"  - {secret}\n"
        "  - {consumer: x}\n"
    )
    for one, wanted in zip(
        found,
        (
            "keys.yaml:2:21: keys[0].sha256: the SHA-256 of a key is wanted",
            "keys.yaml:2:47: keys[0].consumr: 'consumr' is not known here: did you mean consumer?",
            "keys.yaml:2:68: keys[0].expires: a date such as 2027-01-31 is wanted",
            "keys.yaml:3:10: keys[1].id: this id stands in line 2 already",
            "keys.yaml:3:101: keys[1].scopes[1]: a word without spaces is wanted",
            "keys.yaml:3:118: keys[1].claims.id: id is no claim of your own",
            "keys.yaml:4:10: keys[2].id: a name is wanted, without control characters",
            "keys.yaml:4:25: keys[2].sha256: this key stands in line 3 already",
            "keys.yaml:5:5: keys[3]: a mapping is wanted",
            "keys.yaml:6:5: keys[4]: id is missing",
        ),
        strict=True,
    ):
        assert one.startswith(wanted), one
    assert secret not in "".join(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "keys.yaml:1:1: there is nothing in it"),
        ("hello", "keys.yaml:1:1: a list of keys is wanted"),
        ("keys:\n  - id: x\n  sha: y", "keys.yaml:3:3: wrong indentation"),
        ("keys: [{id: @gw_secret_secret}]", "keys.yaml:1:13: a plain text cannot start with"),
        ("keys: gw_secret_secret", "keys.yaml:1:7: keys: a mapping is wanted"),
        ("keys: [{gw_secret_secret}]", "keys.yaml:1:8: keys[0]: a plain { starts a mapping"),
        ("keys: [{id: a, sha256: !gw_secret_secret b}]", "keys.yaml:1:24"),
        ("kes: []", "keys.yaml:1:1: keys is missing"),
        (
            "keys: [{id: a, sha256: a, sha256: b}]",
            "keys.yaml:1:27: keys[0].sha256: sha256 is written",
        ),
    ],
)
def test_what_is_no_list_of_keys_is_refused_in_words(text: str, message: str) -> None:
    found = mistakes(text)
    assert any(one.startswith(message) for one in found), found
    if "!gw" not in text:
        assert "gw_secret_secret" not in "".join(found)


@pytest.mark.parametrize("text", ["keys: []", "[]", "keys: off"])
def test_no_keys_at_all_may_be_said(text: str) -> None:
    assert read_keys(text, "keys.yaml") == ()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2027-01-31", END_OF_2027_01_31),
        ('"2027-01-31"', END_OF_2027_01_31),
        ("2027-01-31T12:00:00Z", END_OF_2027_01_31 - 12 * 3600),
        ("2027-01-31t12:00:00.5+01:00", END_OF_2027_01_31 - 13 * 3600 + 0.5),
        ("2027-01-31 12:00z", END_OF_2027_01_31 - 12 * 3600),
        ("null", None),
    ],
)
def test_a_date_is_good_to_the_end_of_that_day_in_utc(written: str, seconds: float | None) -> None:
    [key] = read_keys(f"keys: [{{id: a, sha256: '{'0' * 64}', expires: {written}}}]", "k")
    assert key.expires == seconds


@pytest.mark.parametrize(
    "written", ["31.1.2027", "2027-13-01", "2027-01-31T12:00:00", "soon", "20270131"]
)
def test_another_form_of_a_date_is_refused(written: str) -> None:
    [found] = mistakes(f"keys: [{{id: a, sha256: '{'0' * 64}', expires: {written}}}]")
    assert "2027-01-31T12:00:00Z" in found


def test_a_file_that_is_wrong_or_missing_stops_the_start(world: World, tmp_path: Path) -> None:
    broken = keys_file(tmp_path, "id: a, sha256: 12", "id: b")
    with pytest.raises(ValueError, match=r"keys\.yaml:2:21.*\n.*keys\.yaml:3:5.*sha256 is missing"):
        policy(world, broken)
    with pytest.raises(ValueError, match=r"none\.yaml cannot be read: No such file"):
        policy(world, str(tmp_path / "none.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"keys: []\n# \xe9\n")
    with pytest.raises(ValueError, match=r"latin\.yaml cannot be read: it is not UTF-8 in line 2"):
        policy(world, str(tmp_path / "latin.yaml"))


# ── who is let in ──


def test_who_bears_a_key_is_known_with_all_that_its_entry_says(
    world: World, tmp_path: Path
) -> None:
    more = "consumer: acme, scopes: [orders, read], groups: [gold], claims: {plan: {rate: 10}}"
    keys = policy(
        world,
        keys_file(tmp_path, entry(more=more)),
        forward={"X-User": "{consumer}", "X-Rate": "{claim.plan.rate}", "X-No": "{claim.nothing}"},
    )
    known = keys.authenticate(asking(("x-api-key", GOOD)))
    assert known is not None
    assert (known.policy, known.consumer) == ("partners", "acme")
    assert known.scopes == {"orders", "read"}
    assert known.groups == {"gold"}
    assert known.claim("id") == "k1"
    assert known.claim("plan.rate") == 10
    assert known.lines == b"X-User: acme\r\nX-Rate: 10\r\n"
    assert keys.forwarded == {b"x-user", b"x-rate", b"x-no"}
    assert keys.authenticate(asking(("X-API-KEY", GOOD))) is known, "made once"


def test_without_a_consumer_a_key_goes_by_its_id_and_a_policy_may_say_otherwise(
    world: World, tmp_path: Path
) -> None:
    file = keys_file(tmp_path, entry(more="claims: {team: red}"))
    known = policy(world, file).authenticate(asking(("X-Api-Key", GOOD)))
    assert known is not None
    assert known.consumer == "k1"
    other = policy(world, file, consumer="team {claim.team}")
    known = other.authenticate(asking(("X-Api-Key", GOOD)))
    assert known is not None
    assert known.consumer == "team red"


def test_no_key_is_no_failure_and_an_unknown_one_is(world: World, tmp_path: Path) -> None:
    keys = policy(world, keys_file(tmp_path, entry()))
    assert keys.authenticate(asking()) is None
    assert keys.authenticate(asking(("Authorization", f"Bearer {GOOD}"))) is None
    for wrong in (GOOD[:-1], GOOD.lower(), digest(GOOD), GOOD + " x", "é"):
        error = refusal(keys, asking(("X-Api-Key", wrong), client_ip=wrong))
        assert error.outcome == "unknown_key"


@pytest.mark.parametrize(
    "fields",
    [
        [("X-Api-Key", "")],
        [("X-Api-Key", GOOD), ("X-Api-Key", GOOD)],
        [("X-Api-Key", "wrong"), ("X-Api-Key", GOOD)],
        [("X-Api-Key", "x" * 1025)],
    ],
)
def test_two_keys_or_a_long_one_or_none_are_malformed(
    world: World, tmp_path: Path, fields: list[tuple[str, str]]
) -> None:
    keys = policy(world, keys_file(tmp_path, entry()))
    assert refusal(keys, asking(*fields)).outcome == "malformed"


def test_a_key_counts_until_the_last_second_of_its_day(world: World, tmp_path: Path) -> None:
    keys = policy(world, keys_file(tmp_path, entry(more="expires: 2027-01-31")))
    world.clock.offset = END_OF_2027_01_31 - world.clock.wall() - 5
    assert keys.authenticate(asking(("X-Api-Key", GOOD))) is not None
    world.clock.offset += 6
    error = refusal(keys, asking(("X-Api-Key", GOOD)))
    assert (error.outcome, error.detail) == ("expired", "the key 'k1' has expired")


def test_a_key_may_stand_in_a_parameter_or_a_cookie_or_behind_bearer_and_nowhere_else(
    world: World, tmp_path: Path
) -> None:
    file = keys_file(tmp_path, entry(), entry("a b/ü", name="odd"))
    everywhere = {
        "header": asking(("X-Api-Key", GOOD)),
        "query": asking(query=f"a=1&api_key={GOOD}"),
        "cookie": asking(("Cookie", f"a=1; api_key={GOOD}")),
        "bearer": asking(("Authorization", f"bEaReR  {GOOD}")),
    }
    policies = {
        "header": policy(world, file),
        "query": policy(world, file, query="api_key"),
        "cookie": policy(world, file, cookie="api_key"),
        "bearer": policy(world, file, header="Authorization"),
    }
    for place, keys in policies.items():
        for where, exchange in everywhere.items():
            assert (keys.authenticate(exchange) is not None) is (place == where)
    odd = policies["query"].authenticate(asking(query="%61pi_key=a+b%2F%C3%BC"))
    assert odd is not None
    assert odd.consumer == "odd"
    assert (
        refusal(policies["query"], asking(query=f"api_key=x&api_key={GOOD}")).outcome == "malformed"
    )
    two = asking(("Authorization", "Basic eA=="), ("Authorization", f"Bearer {GOOD}"))
    assert refusal(policies["bearer"], two).outcome == "malformed"
    assert policies["bearer"].authenticate(asking(("Authorization", "Basic eA=="))) is None
    assert policies["header"].taken.headers == {b"x-api-key"}
    assert policies["query"].taken.query == {"api_key"}
    assert policies["cookie"].taken.cookies == {"api_key"}
    assert policies["bearer"].taken.headers == {b"authorization"}
    assert policies["bearer"].challenge == "Bearer"
    assert policies["header"].challenge == "ApiKey"


def test_who_guesses_is_refused_and_who_repeats_or_has_expired_is_not(
    world: World, tmp_path: Path
) -> None:
    file = keys_file(tmp_path, entry(), entry("old", "expires: 2020-01-01", "k2"))
    keys = policy(world, file, attempts=Attempts(max=3, window=60.0))
    for _ in range(20):
        refusal(keys, asking(("X-Api-Key", "withdrawn")))
        refusal(keys, asking(("X-Api-Key", "old")))
    refusal(keys, asking(("X-Api-Key", "guess 1")))
    refusal(keys, asking(("X-Api-Key", "guess 2")))
    with pytest.raises(errors.RateLimited):
        keys.authenticate(asking(("X-Api-Key", GOOD)))
    assert keys.authenticate(asking()) is None, "other policies may know this client"
    assert keys.authenticate(asking(("X-Api-Key", GOOD), client_ip="192.0.2.2")) is not None
    world.clock.advance(61)
    assert keys.authenticate(asking(("X-Api-Key", GOOD))) is not None


def test_malformed_keys_are_guesses_too(world: World, tmp_path: Path) -> None:
    keys = policy(world, keys_file(tmp_path, entry()), attempts=Attempts(max=3, window=60.0))
    for _ in range(3):
        refusal(keys, asking(("X-Api-Key", GOOD), ("X-Api-Key", GOOD)))
    with pytest.raises(errors.RateLimited):
        keys.authenticate(asking(("X-Api-Key", GOOD)))


def test_a_limit_that_is_off_refuses_nobody(world: World, tmp_path: Path) -> None:
    keys = policy(world, keys_file(tmp_path, entry()), attempts=None)
    for number in range(1000):
        refusal(keys, asking(("X-Api-Key", f"guess {number}")))
    assert keys.authenticate(asking(("X-Api-Key", GOOD))) is not None


def test_nothing_that_is_held_or_shown_has_a_key_in_it(world: World, tmp_path: Path) -> None:
    keys = policy(world, keys_file(tmp_path, entry()))
    keys.authenticate(asking(("X-Api-Key", GOOD)))
    assert GOOD not in repr(vars(keys))
    assert repr(keys) == "<ApiKeys partners: 1 keys>"


def test_a_known_key_costs_microseconds_among_a_thousand(world: World, tmp_path: Path) -> None:
    lines = [entry(f"key {number}", name=f"k{number}") for number in range(1000)]
    keys = policy(world, keys_file(tmp_path, entry(name="good"), *lines))
    exchange = asking(("Host", "x"), ("Accept", "*/*"), ("X-Api-Key", GOOD))
    runs = timeit.repeat(lambda: keys.authenticate(exchange), number=2000, repeat=5)
    assert min(runs) / 2000 < 30e-6, "3 µs are promised; this tells a slow hash from a look-up"


# ── the file changes ──


async def test_a_key_that_is_withdrawn_counts_no_more_and_a_new_one_does(
    world: World, tmp_path: Path
) -> None:
    keys = policy(world, keys_file(tmp_path, entry()))
    keys_file(tmp_path, entry("another", name="k2"), entry("third", name="k3"))
    await look(keys, world)
    assert refusal(keys, asking(("X-Api-Key", GOOD))).outcome == "unknown_key"
    assert keys.authenticate(asking(("X-Api-Key", "another"))) is not None
    [(kind, why)] = world.said
    assert kind == "auth_file_reloaded"
    assert why.startswith("partners: ")
    assert why.endswith("keys.yaml: 2 keys")
    await keys.aclose()


async def test_a_broken_file_changes_nothing_and_is_told_once(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = policy(world, keys_file(tmp_path, entry()))
    with caplog.at_level(logging.INFO):
        keys_file(tmp_path, "id: a, sha256: gw_secret_secret", "id: b")
        await look(keys, world)
        keys_file(tmp_path, "id: a, sha256: gw_secret_secret", "id: b")  # once more the same
        await look(keys, world)
        assert keys.authenticate(asking(("X-Api-Key", GOOD))) is not None
        Path(tmp_path, "keys.yaml").unlink()
        await look(keys, world)
        assert keys.authenticate(asking(("X-Api-Key", GOOD))) is not None
        keys_file(tmp_path, entry())
        await look(keys, world)
        Path(tmp_path, "keys.yaml").unlink()
        await look(keys, world)
    kinds = [kind.removeprefix("auth_file_") for kind, _ in world.said]
    assert kinds == ["failed", "failed", "reloaded", "failed"]
    assert "keys.yaml:2:21: keys[0].sha256" in world.said[0][1]
    assert "(and 1 more); what it held before counts on" in world.said[0][1]
    assert "No such file or directory; what it held before counts on" in world.said[1][1]
    assert [one.levelname for one in caplog.records] == ["WARNING", "WARNING", "INFO", "WARNING"]
    assert "gw_secret_secret" not in str(world.said) + caplog.text
    await keys.aclose()


async def test_the_links_that_kubernetes_swaps_are_followed(world: World, tmp_path: Path) -> None:
    for name, key in (("v1", GOOD), ("v2", "another")):
        (tmp_path / name).mkdir()
        keys_file(tmp_path / name, entry(key))
    data, link = tmp_path / "..data", tmp_path / "keys.yaml"
    data.symlink_to("v1")
    link.symlink_to("..data/keys.yaml")
    keys = policy(world, str(link))
    fresh = tmp_path / "..data_tmp"
    fresh.symlink_to("v2")
    fresh.rename(data)
    await look(keys, world)
    assert keys.authenticate(asking(("X-Api-Key", "another"))) is not None
    await keys.aclose()


async def test_it_looks_by_itself_every_two_seconds_until_it_is_closed(
    world: World, tmp_path: Path
) -> None:
    keys = policy(world, keys_file(tmp_path, entry()))
    keys_file(tmp_path, entry("another"))
    await asyncio.sleep(0.01)
    world.clock.advance(INTERVAL + 0.1)
    for _ in range(200):
        await asyncio.sleep(0.01)
        world.clock.advance(SETTLE / 4)
        if world.said:
            break
    assert [kind for kind, _ in world.said] == ["auth_file_reloaded"]
    await keys.aclose()
    await keys.aclose()


async def look(keys: ApiKeys, world: World) -> None:
    """Let it look once, without waiting for a file to settle."""
    looking = spawn(keys._file.look(), "look")
    while not looking.done():
        await asyncio.sleep(0.005)
        world.clock.advance(SETTLE)
    await looking
