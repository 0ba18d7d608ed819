"""Binding: what is open, what is said when it can not be, what is left behind."""

from __future__ import annotations

import asyncio
import socket
import stat
from typing import TYPE_CHECKING, Any

import pytest

from gateway.config import model
from gateway.runtime.listeners import Binds, Bound, ListenError, describe

if TYPE_CHECKING:
    from pathlib import Path


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        transport.close()


async def greeting(address: str) -> bytes:
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    try:
        async with asyncio.timeout(5):
            return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def opened(bind: model.Bind) -> Bound:
    bound = Bound(bind, "test")
    await bound.open()
    await bound.serve(Greeter)
    return bound


async def test_port_0_is_a_port_of_the_systems_choice_and_the_address_says_which() -> None:
    bound = await opened(model.Bind(host="127.0.0.1", port=0))
    assert not bound.address.endswith(":0")
    assert await greeting(bound.address) == b"hello"
    bound.close()
    with pytest.raises(OSError):
        await greeting(bound.address)


async def test_a_name_with_several_addresses_listens_on_all_of_them_at_one_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop = asyncio.get_running_loop()

    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", port, 0, 0)),
        ]

    monkeypatch.setattr(loop, "getaddrinfo", resolve)
    bound = Bound(model.Bind(host="both.test", port=0), "test")
    await bound.open()
    monkeypatch.undo()
    await bound.serve(Greeter)
    port = bound.address.rpartition(":")[2]
    assert await greeting(f"127.0.0.1:{port}") == b"hello"
    assert await greeting(f"127.0.0.2:{port}") == b"hello"
    assert len(bound.sockets) == 2, "an address that this machine does not have is left out"
    bound.close()


async def test_a_connection_made_before_anybody_accepts_waits_in_the_queue() -> None:
    bound = Bound(model.Bind(host="127.0.0.1", port=0), "test")
    await bound.open()
    waiting = asyncio.get_running_loop().create_task(greeting(bound.address))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await bound.serve(Greeter)
    assert await waiting == b"hello"
    bound.close()


async def test_a_port_that_is_taken_is_an_error_that_names_it_and_says_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            await Bound(model.Bind(host="127.0.0.1", port=port), "web").open()
    assert caught.value.strerror == (
        f"web (127.0.0.1:{port}): the address is in use: "
        "stop the program that listens there or choose another bind"
    )


async def test_a_port_of_connections_in_time_wait_is_free() -> None:
    first = await opened(model.Bind(host="127.0.0.1", port=0))
    assert await greeting(first.address) == b"hello"  # our side closed first: TIME_WAIT is ours
    first.close()
    await asyncio.sleep(0)
    second = await opened(model.Bind(host="127.0.0.1", port=int(first.address.rpartition(":")[2])))
    assert second.address == first.address
    second.close()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("203.0.113.77", "this machine has no such address"),
        ("nowhere.invalid", "the host name does not resolve"),
    ],
)
async def test_an_address_that_is_not_ours_is_said_so(host: str, words: str) -> None:
    with pytest.raises(ListenError, match=words):
        await Bound(model.Bind(host=host, port=0), "").open()


async def test_a_unix_socket_has_its_mode_and_is_gone_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    bound = await opened(model.Bind(unix=str(path), mode="0660"))
    assert bound.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert await greeting(bound.address) == b"hello"
    bound.close()
    assert not path.exists()


async def test_a_unix_socket_that_a_killed_process_has_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(path))
        killed.listen()
    bound = await opened(model.Bind(unix=str(path)))
    assert await greeting(bound.address) == b"hello"
    bound.close()


async def test_a_unix_socket_on_which_somebody_listens_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    live = await opened(model.Bind(unix=str(path)))
    with pytest.raises(ListenError, match=r"gw\.sock.*: the address is in use"):
        await Bound(model.Bind(unix=str(path)), "second").open()
    assert await greeting(live.address) == b"hello"
    live.close()


@pytest.mark.parametrize("kind", ["file", "link"])
async def test_what_is_no_socket_is_never_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "gw.sock"
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ListenError, match="is no socket"):
        await Bound(model.Bind(unix=str(path)), "").open()
    assert path.is_symlink() or path.read_text() == "precious"


async def test_closing_leaves_the_socket_of_the_next_process_in_place(tmp_path: Path) -> None:
    path = tmp_path / "gw.sock"
    first = await opened(model.Bind(unix=str(path)))
    path.unlink()
    second = await opened(model.Bind(unix=str(path)))
    first.close()
    assert await greeting(f"unix:{path}") == b"hello"
    second.close()


async def test_a_change_that_is_given_up_leaves_the_former_binds(tmp_path: Path) -> None:
    binds = Binds()
    one = model.Bind(unix=str(tmp_path / "one.sock"))
    two = model.Bind(unix=str(tmp_path / "two.sock"))
    first = await binds.open([("one", one)])
    first.commit()
    change = await binds.open([("one", one), ("two", two)])
    assert change.bound[0] is first.bound[0]
    change.give_up()
    assert binds.bound == first.bound
    assert (tmp_path / "one.sock").exists()
    assert not (tmp_path / "two.sock").exists()
    binds.close()


async def test_a_bind_that_stays_keeps_its_socket_under_a_new_name() -> None:
    binds = Binds()
    port_0 = model.Bind(host="127.0.0.1", port=0)
    first = await binds.open([("a", port_0), ("b", port_0)])
    first.commit()
    a, b = first.bound
    change = await binds.open([("b", port_0)])
    change.commit()
    assert a.sockets != []
    change.close_gone()
    assert binds.bound == [b]
    fixed = model.Bind(host="127.0.0.1", port=int(b.address.rpartition(":")[2]))
    with pytest.raises(ListenError):
        await binds.open([("c", fixed)])
    assert binds.bound == [b]
    assert a.sockets == []
    binds.close()


@pytest.mark.parametrize(
    ("bind", "text"),
    [
        (model.Bind(host="127.0.0.1", port=80), "127.0.0.1:80"),
        (model.Bind(host="::1", port=80), "[::1]:80"),
        (model.Bind(unix="/run/x"), "unix:/run/x"),
    ],
)
def test_a_bind_is_described_as_it_is_written(bind: model.Bind, text: str) -> None:
    assert describe(bind) == text


async def test_a_unix_socket_takes_another_mode_without_being_closed(tmp_path: Path) -> None:
    binds, path = Binds(), tmp_path / "gw.sock"
    first = await binds.open([("a", model.Bind(unix=str(path), mode="0600"))])
    first.commit()
    change = await binds.open([("a", model.Bind(unix=str(path), mode="0666"))])
    assert change.fresh == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600, "a change that is not in force has changed"
    change.commit()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    binds.close()


async def test_a_port_that_the_running_configuration_holds_is_said_to_be_ours() -> None:
    binds = Binds()
    first = await binds.open([("a", model.Bind(host="127.0.0.1", port=0))])
    port = int(first.bound[0].address.rpartition(":")[2])
    first.give_up()
    narrow = await binds.open([("a", model.Bind(host="127.0.0.1", port=port))])
    narrow.commit()
    with pytest.raises(ListenError, match=f"running configuration listens on 127.0.0.1:{port}"):
        await binds.open([("a", model.Bind(host="0.0.0.0", port=port))])
    binds.close()
