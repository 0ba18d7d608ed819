"""`auth`: several policies, of which one may know the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway import errors
from gateway.auth import Taken
from gateway.exchange import Reply
from gateway.identity import NOBODY, Identity
from gateway.middleware.auth import Door
from tests.middleware.test_metrics import build
from tests.observe.stand_in import exchange

if TYPE_CHECKING:
    from gateway.exchange import Exchange

ANN = Identity("staff", "ann")
LOGIN = Reply(302, [b"Location: /login\r\n"])
NO = Reply(403, [], b"the service says no")


class Policy:
    """Says what it is told to; awaited where `late`."""

    taken = Taken()
    forwarded: frozenset[bytes] = frozenset()

    def __init__(self, name: str, says: Any, challenge: str = "", *, late: bool = False) -> None:
        self.name, self.says, self.challenge, self.late = name, says, challenge, late
        self.asked = 0

    def authenticate(self, exchange: Exchange) -> Any:
        self.asked += 1
        if self.late:
            return self._later()
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    async def _later(self) -> Any:
        if isinstance(self.says, Exception):
            raise self.says
        return self.says

    def rehearse(self, exchange: Exchange) -> Identity | None:
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing is held."""


class Login(Policy):
    """Sends who is not known to a login."""

    def invite(self, exchange: Exchange) -> Any:
        return LOGIN


class Case:
    def __init__(self, *policies: Policy) -> None:
        self.build = build()
        self.inside: list[Identity | None] = []
        self.policies = policies
        self.fails: errors.GatewayError | None = None
        self.door = Door(policies, self._forward, self.build)

    def _forward(self, exchange: Exchange) -> Reply:
        self.inside.append(exchange.identity)
        if self.fails is not None:
            raise self.fails
        return Reply(200, [])

    async def ask(self) -> int:
        self.exchange = exchange()
        return (await self.door(self.exchange)).status

    @property
    def counted(self) -> dict[str, dict[str, int]]:
        meters = self.build.metrics.entrance.policies.values()
        return {
            meter.name: {**meter.outcomes, **({"ok": meter.ok} if meter.ok else {})}
            for meter in meters
        }


def bad(outcome: str = "bad_signature", challenge: str = "") -> errors.Unauthenticated:
    headers = (("WWW-Authenticate", challenge),) if challenge else ()
    return errors.Unauthenticated("no", headers, outcome=outcome)


@pytest.mark.parametrize("late", [False, True])
async def test_the_first_policy_that_knows_the_client_decides_who_it_is(late: bool) -> None:
    case = Case(
        Policy("none", None, late=late), Policy("staff", ANN, late=late), Policy("last", ANN)
    )
    assert await case.ask() == 200
    assert case.inside == [ANN]
    assert case.policies[2].asked == 0
    assert case.counted == {"none": {}, "staff": {"ok": 1}, "last": {}}


@pytest.mark.parametrize("late", [False, True])
async def test_one_that_refuses_or_can_not_tell_is_not_the_end(late: bool) -> None:
    down = errors.AuthUnavailable("the issuer is down")
    case = Case(
        Policy("a", bad(), late=late), Policy("b", down, late=late), Policy("staff", ANN, late=late)
    )
    assert await case.ask() == 200
    assert case.counted == {
        "a": {"bad_signature": 1},
        "b": {"provider_error": 1},
        "staff": {"ok": 1},
    }


@pytest.mark.parametrize("late", [False, True])
async def test_nobody_comes_in_unknown_and_is_told_how_to_be_known(late: bool) -> None:
    case = Case(Policy("a", None, "Bearer", late=late), Policy("b", None, 'Basic realm="x"'))
    with pytest.raises(errors.Unauthenticated) as refused:
        await case.ask()
    assert refused.value.headers == (
        ("WWW-Authenticate", "Bearer"),
        ("WWW-Authenticate", 'Basic realm="x"'),
    )
    assert refused.value.outcome == "missing"
    assert case.inside == []
    assert case.counted == {"a": {"missing": 1}, "b": {"missing": 1}}


async def test_bad_credentials_of_one_policy_are_not_missing_ones_of_another() -> None:
    case = Case(
        Policy("a", bad("expired", 'Bearer error="invalid_token"'), "Bearer"),
        Policy("b", None, "Basic"),
    )
    with pytest.raises(errors.Unauthenticated) as refused:
        await case.ask()
    assert [value for _, value in refused.value.headers] == [
        'Bearer error="invalid_token"',
        "Basic",
    ]
    assert case.counted == {"a": {"expired": 1}, "b": {}}


@pytest.mark.parametrize("late", [False, True])
async def test_where_one_can_not_tell_and_none_knows_that_is_the_answer(late: bool) -> None:
    down = errors.AuthUnavailable("down")
    case = Case(Policy("a", bad()), Policy("b", down, late=late), Policy("c", bad()))
    with pytest.raises(errors.AuthUnavailable):
        await case.ask()


async def test_what_a_service_has_said_is_the_answer_unless_another_policy_knows_the_client() -> (
    None
):
    case = Case(Policy("sso", NO, late=True), Policy("key", None))
    assert await case.ask() == 403
    assert case.counted["sso"] == {"forbidden": 1}
    case = Case(Policy("sso", NO, late=True), Policy("key", ANN))
    assert await case.ask() == 200


async def test_a_login_is_offered_only_after_all_others_were_asked() -> None:
    case = Case(Login("login", None), Policy("key", None, "ApiKey"))
    assert await case.ask() == 302
    case = Case(Login("login", None), Policy("key", ANN))
    assert await case.ask() == 200
    case = Case(Login("login", None), Policy("key", errors.AuthUnavailable("down")))
    with pytest.raises(errors.AuthUnavailable):
        await case.ask()


@pytest.mark.parametrize("late", [False, True])
async def test_a_failure_behind_the_door_is_not_taken_for_one_of_a_policy(late: bool) -> None:
    case = Case(Policy("a", ANN, late=late), Policy("b", ANN))
    case.fails = errors.Unauthenticated("from further in")
    with pytest.raises(errors.Unauthenticated, match="from further in"):
        await case.ask()
    assert case.counted == {"a": {"ok": 1}, "b": {}}


@pytest.mark.parametrize("late", [False, True])
async def test_who_is_let_in_unknown_has_no_identity_and_is_not_counted_as_known(
    late: bool,
) -> None:
    for policies in ((NOBODY,), (None, NOBODY)):
        case = Case(*(Policy(f"p{at}", says, late=late) for at, says in enumerate(policies)))
        assert await case.ask() == 200
        assert case.inside == [None]
        assert all("ok" not in counted for counted in case.counted.values())


async def test_a_fault_of_the_request_itself_ends_the_round() -> None:
    case = Case(Policy("a", errors.BodyTooLarge("too much to sign"), late=True), Policy("b", ANN))
    with pytest.raises(errors.BodyTooLarge):
        await case.ask()


async def test_lines_of_a_renewed_session_go_to_the_client_once() -> None:
    renewed = Identity("login", "ann", once=(b"Set-Cookie: gw=2\r\n",))
    case = Case(Policy("login", renewed))
    assert await case.ask() == 200
    assert case.exchange.extra == (b"Set-Cookie: gw=2\r\n",)
