"""Basic authentication: what is read, when a hash is computed and where, what is remembered and for how long."""

from __future__ import annotations

import asyncio
import base64
import threading
import timeit
from typing import TYPE_CHECKING, Any

import bcrypt
import pytest

from gateway import errors
from gateway.auth import basic as module
from gateway.auth.basic import KEPT, Basic, credentials, make
from gateway.auth.hashing import Verifier
from gateway.config import auth as settings
from gateway.config.htpasswd import Entry
from gateway.files import SETTLE
from gateway.identity import Identity
from gateway.tasks import spawn
from tests.auth.keykit import World, asking, basic

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    Make = Callable[..., Basic]

HASHES = {
    name: bcrypt.hashpw(name.encode() * 2, bcrypt.gensalt(4)).decode() for name in ("ann", "bob")
}
ANN, BOB = basic("ann", "annann"), basic("bob", "bobbob")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def policy(world: World, tmp_path: Path, _leak_guard: None) -> AsyncIterator[Make]:
    made: list[Basic] = []

    def one(text: str | None = None, **given: Any) -> Basic:
        path = tmp_path / "htpasswd"
        path.write_text(text or "".join(f"{name}:{hashed}\n" for name, hashed in HASHES.items()))
        made.append(make("legacy", settings.Basic(htpasswd=str(path), **given), world.tools))
        return made[-1]

    yield one
    for each in made:
        await each.aclose()


async def who(policy: Basic, *fields: tuple[str, str], client_ip: str = "192.0.2.1") -> str:
    """The consumer, or the outcome."""
    try:
        verdict = policy.authenticate(asking(*fields, client_ip=client_ip))
        if verdict is None:
            return "nobody"
        return (verdict if isinstance(verdict, Identity) else await verdict).consumer
    except errors.Unauthenticated as error:
        return f"{error.outcome} {error.detail}" if "annann" in error.detail else error.outcome
    except errors.GatewayError as error:
        return error.reason


class Held:
    """In place of a hash: stands until it is let go, and says where it ran."""

    def __init__(self, password: bytes = b"annann") -> None:
        self.password = password
        self.go = threading.Event()
        self.calls = 0
        self.threads: set[int] = set()

    def verify(self, password: bytes) -> bool:
        self.calls += 1
        self.threads.add(threading.get_ident())
        self.go.wait(10)
        return password == self.password


# ── what is read ──


def test_the_challenge_names_the_realm_and_asks_for_utf8(world: World, tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text("")
    made = make("legacy", settings.Basic(htpasswd=str(path), realm='the "old" one'), world.tools)
    assert made.challenge == r'Basic realm="the \"old\" one", charset="UTF-8"'
    assert made.taken.headers == {b"authorization"}


@pytest.mark.parametrize(
    ("raw", "user", "password"),
    [
        (b"ann:secret", "ann", b"secret"),
        (b"ann:a:b:", "ann", b"a:b:"),
        (b"ann:", "ann", b""),
        (b":x", "", b"x"),
        ("änn:sécrét€".encode(), "änn", "sécrét€".encode()),
        ("änn:sécrét".encode("latin-1"), "änn", "sécrét".encode()),
    ],
)
def test_utf8_and_latin1_are_read_and_end_as_utf8(raw: bytes, user: str, password: bytes) -> None:
    for scheme in ("Basic", "basic", "BASIC"):
        field = f"{scheme} {base64.b64encode(raw).decode()}"
        assert credentials([field]) == (user, password)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (["Basic"], "no colon"),
        (["Basic !!!"], "base64"),
        (["Basic YW5uOng"], "base64"),
        (["Basic YW5uOng= x"], "base64"),
        (["Basic é"], "base64"),
        (["Basic " + base64.b64encode(b"ann").decode()], "no colon"),
        ([basic("ann", "a\0a")[1]], "control"),
        ([basic("a\nnn", "a")[1]], "control"),
        ([basic("ann", "a\x7f")[1]], "control"),
        ([basic("ann", "x" * 1025)[1]], "too long"),
        ([basic("x" * 1025, "x")[1]], "too long"),
        (["Basic " + "A" * 100_000], "too long"),
        ([ANN[1], ANN[1]], "more than one"),
        ([ANN[1], "Bearer x"], "more than one"),
    ],
)
def test_what_is_no_name_and_password_is_malformed(fields: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        credentials(fields)


# ── who is let in ──


async def test_who_knows_the_password_is_let_in_and_nobody_else(policy: Make) -> None:
    one = policy(forward={"X-User": "{consumer}"}, attempts=None)
    assert await who(one) == "nobody"
    assert await who(one, ("Authorization", "Bearer x")) == "nobody"
    assert await who(one, ANN) == "ann"
    assert await who(one, BOB) == "bob"
    for wrong in (("ann", "bobbob"), ("ann", ""), ("Ann", "annann"), ("eve", "annann"), ("", "")):
        assert await who(one, basic(*wrong)) == "unknown_key"
    assert await who(one, ANN, ANN) == "malformed"
    assert await who(one, ("Authorization", "Bearer x"), ANN) == "malformed"
    assert await who(one, basic("ann", "annann\0")) == "malformed"
    known = one.authenticate(asking(ANN))
    assert isinstance(known, Identity)
    assert (known.lines, known.policy, known.claim("sub")) == (b"X-User: ann\r\n", "legacy", "ann")


async def test_an_unknown_name_and_a_wrong_password_can_not_be_told_apart(policy: Make) -> None:
    one = policy()
    found = []
    for wrong in (("ann", "x"), ("eve", "x")):
        verdict = one.authenticate(asking(basic(*wrong)))
        assert verdict is not None
        assert not isinstance(verdict, Identity)
        with pytest.raises(errors.Unauthenticated) as caught:
            await verdict
        found.append((caught.value.outcome, caught.value.detail, caught.value.headers))
    assert found[0] == found[1]


async def test_bcrypt_repeats_a_password_behind_a_nul_and_that_opens_nothing(policy: Make) -> None:
    assert bcrypt.checkpw(b"annann\0annann", HASHES["ann"].encode()), "why NUL is refused"
    one = policy()
    assert await who(one, basic("ann", "annann\0annann")) == "malformed"
    assert one.verifier.done == 0


async def test_an_unknown_name_costs_one_hash_as_a_known_one_does(policy: Make) -> None:
    one = policy(attempts=None)
    calls: list[str] = []

    def counting(name: str) -> Entry:
        return Entry(lambda _password: calls.append(name) is not None)

    one._take({name: counting(name) for name in ("ann", "bob", "cid", "dan")})
    for number in range(20):
        calls.clear()
        assert await who(one, basic("ann", f"x{number}")) == "unknown_key"
        assert calls == ["ann"]
    seen = set()
    for number in range(40):
        calls.clear()
        assert await who(one, basic(f"eve{number}", "x")) == "unknown_key"
        assert len(calls) == 1
        first = calls.copy()
        assert await who(one, basic(f"eve{number}", "y")) == "unknown_key"
        assert calls == first * 2, "the same one for the same name: no cost changes from try to try"
        seen.add(first[0])
    assert seen == {"ann", "bob", "cid", "dan"}


async def test_a_decoy_that_knows_the_password_lets_nobody_in(policy: Make) -> None:
    one = policy()
    one._take({"ann": Entry(lambda _password: True)})
    assert await who(one, basic("eve", "anything")) == "unknown_key"
    assert await who(one, basic("eve", "anything")) == "unknown_key"


async def test_an_empty_file_lets_nobody_in(policy: Make) -> None:
    assert await who(policy("# nobody\n"), ANN) == "unknown_key"


# ── when a hash is computed, and where ──


async def test_hashes_are_computed_in_threads_and_the_loop_goes_on(policy: Make) -> None:
    one, held = policy(), Held()
    one._take({"ann": Entry(held.verify)})
    asked = spawn(who(one, ANN), "asked")
    while not held.calls:
        await asyncio.sleep(0.001)
    for _ in range(100):
        await asyncio.sleep(0)
    assert not asked.done()
    held.go.set()
    assert await asked == "ann"
    assert threading.get_ident() not in held.threads


async def test_a_known_client_costs_no_hash_for_five_minutes(policy: Make, world: World) -> None:
    one = policy()
    for _ in range(50):
        assert await who(one, ANN) == "ann"
    assert one.verifier.done == 1
    world.clock.advance(KEPT + 1)
    assert await who(one, ANN) == "ann"
    assert one.verifier.done == 2


async def test_many_at_once_with_one_password_cost_one_hash(policy: Make) -> None:
    one = policy()
    assert set(await asyncio.gather(*(who(one, ANN) for _ in range(100)))) == {"ann"}
    assert one.verifier.done == 1


async def test_one_wrong_password_again_and_again_costs_one_hash_and_refuses_nobody(
    policy: Make,
) -> None:
    one = policy()
    for _ in range(50):
        assert await who(one, basic("ann", "old")) == "unknown_key"
    assert one.verifier.done == 1
    assert await who(one, ANN) == "ann"


async def test_guesses_are_refused_without_a_hash(policy: Make, world: World) -> None:
    one = policy()
    assert await who(one, ANN, client_ip="192.0.2.2") == "ann"
    outcomes = [await who(one, basic("ann", f"guess {number}")) for number in range(100)]
    assert outcomes == ["unknown_key"] * 10 + ["rate_limited"] * 90
    assert one.verifier.done == 11
    assert await who(one, ANN) == "rate_limited", "known or not: else guesses could go on"
    assert await who(one, ANN, client_ip="192.0.2.2") == "ann"
    world.clock.advance(61)
    assert await who(one, ANN) == "ann"


async def test_a_hundred_guesses_at_once_cost_no_more_than_ten_hashes(policy: Make) -> None:
    one = policy()
    asked = [who(one, basic(f"user{number}", "x")) for number in range(100)]
    outcomes = await asyncio.gather(*asked)
    assert outcomes.count("unknown_key") == 10
    assert outcomes.count("rate_limited") == 90
    assert one.verifier.done == 10


async def test_malformed_credentials_are_guesses_too(policy: Make) -> None:
    one = policy()
    for number in range(10):
        assert await who(one, basic("ann", f"\0{number}")) == "malformed"
    assert await who(one, ANN) == "rate_limited"
    assert one.verifier.done == 0


async def test_when_the_queue_is_full_who_comes_is_told_so_and_who_is_known_passes(
    policy: Make,
) -> None:
    one, held = policy(), Held()
    assert await who(one, BOB) == "bob"
    kept = one._known
    one._take({"ann": Entry(held.verify)})
    one._known = kept
    await one.verifier.aclose()
    one.verifier = Verifier(threads=1, queue=3)
    asked = [
        spawn(who(one, basic("ann", f"x{number}"), client_ip=f"192.0.2.{number}"), "asked")
        for number in range(3)
    ]
    await asyncio.sleep(0.01)
    assert one.verifier.waiting == 3
    for _ in range(20):
        assert await who(one, ANN, client_ip="192.0.2.9") == "auth_unavailable"
    assert await who(one, BOB) == "bob"
    held.go.set()
    assert set(await asyncio.gather(*asked)) == {"unknown_key"}
    assert one.verifier.waiting == 0
    assert await who(one, ANN, client_ip="192.0.2.9") == "ann"


async def test_a_client_that_leaves_does_not_end_what_others_wait_for(policy: Make) -> None:
    one, held = policy(), Held()
    one._take({"ann": Entry(held.verify)})
    first, second = (spawn(who(one, ANN), "asked") for _ in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    held.go.set()
    assert await second == "ann"
    assert held.calls == 1


async def test_a_policy_that_is_closed_tells_who_still_waits(policy: Make) -> None:
    one, held = policy(), Held()
    one._take({"ann": Entry(held.verify)})
    await one.verifier.aclose()
    one.verifier = Verifier(threads=1, queue=3)
    asked = [spawn(who(one, basic("ann", f"x{number}")), "asked") for number in range(3)]
    await asyncio.sleep(0.01)
    closing = spawn(one.aclose(), "closing")
    await asyncio.sleep(0.01)
    held.go.set()
    await closing
    assert sorted(await asyncio.gather(*asked)) == [
        "auth_unavailable",
        "auth_unavailable",
        "unknown_key",
    ]


# ── what is remembered ──


async def test_what_is_remembered_is_bounded_and_holds_no_password(
    policy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOM", 3)
    monkeypatch.setattr(module, "ROOM_WRONG", 2)
    one = policy(attempts=None)
    one._take({f"u{number}": Entry(lambda password: password == b"right") for number in range(10)})
    for number in range(10):
        assert await who(one, basic(f"u{number}", "right")) == f"u{number}"
        assert await who(one, basic(f"u{number}", "wrong")) == "unknown_key"
    assert len(one._known) == 3
    assert len(one._wrong) == 2
    assert one._under_way == {}
    assert "right" not in repr(vars(one))
    assert base64.b64encode(b"u9:right").decode() not in repr(vars(one))


async def test_when_the_file_changes_all_that_was_known_is_forgotten(
    policy: Make, world: World, tmp_path: Path
) -> None:
    one = policy()
    assert await who(one, ANN) == "ann"
    assert await who(one, basic("ann", "new")) == "unknown_key"
    hashed = bcrypt.hashpw(b"new", bcrypt.gensalt(4)).decode()
    (tmp_path / "htpasswd").write_text(f"ann:{hashed}\n")
    looking = spawn(one._file.look(), "look")
    while not looking.done():
        await asyncio.sleep(0.005)
        world.clock.advance(SETTLE)
    assert world.said[0][0] == "auth_file_reloaded"
    assert world.said[0][1].endswith("htpasswd: 1 user")
    assert await who(one, ANN) == "unknown_key"
    assert await who(one, basic("ann", "new")) == "ann"


async def test_a_hash_of_the_former_file_is_not_remembered(policy: Make) -> None:
    one, held, other = policy(), Held(), Held(b"another")
    await one.verifier.aclose()
    one.verifier = Verifier(threads=2)
    one._take({"ann": Entry(held.verify)})
    before = spawn(who(one, ANN), "before")
    await asyncio.sleep(0.01)
    one._take({"ann": Entry(other.verify)})
    after = spawn(who(one, ANN), "after")
    await asyncio.sleep(0.01)
    held.go.set()
    assert await before == "ann"
    assert one._known == {}
    assert len(one._under_way) == 1, "what the new file says is still to come"
    other.go.set()
    assert await after == "unknown_key"


def test_a_rehearsal_verifies_without_a_loop(world: World, tmp_path: Path) -> None:
    path = tmp_path / "htpasswd"
    path.write_text(f"ann:{HASHES['ann']}\n")
    one = make("legacy", settings.Basic(htpasswd=str(path)), world.tools)
    known = one.rehearse(asking(ANN))
    assert known is not None
    assert known.consumer == "ann"
    assert one.rehearse(asking()) is None
    for wrong, outcome in ((basic("ann", "x"), "unknown_key"), (basic("ann", "\0"), "malformed")):
        with pytest.raises(errors.Unauthenticated) as caught:
            one.rehearse(asking(wrong))
        assert caught.value.outcome == outcome


async def test_a_known_client_costs_microseconds(policy: Make) -> None:
    one = policy()
    await who(one, ANN)
    exchange = asking(("Host", "x"), ANN)
    runs = timeit.repeat(lambda: one.authenticate(exchange), number=2000, repeat=5)
    assert min(runs) / 2000 < 50e-6
