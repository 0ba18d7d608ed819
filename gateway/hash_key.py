"""`gateway hash-key`: a key for a client, and its entry for the keys' file.

Rules of this file: those of `cli.py`. The key is printed once, and goes nowhere else: what the file holds is its SHA-256. A
key is never an argument of the command, for those stand in the history of the shell and in the list of processes.
"""

from __future__ import annotations

import json
import sys

import click

PREFIX = "gw_"
"""So that those who look for secrets in repositories find it."""
FEWEST = 20
"""Signs of a key that somebody else has made: fewer can be guessed."""
LONGEST = 1024


def _checked_expiry(
    _context: click.Context, _option: click.Parameter, written: str | None
) -> str | None:
    if written is not None:
        from gateway.config.keys import parse_expiry

        try:
            parse_expiry(written)
        except (ValueError, OverflowError):
            raise click.BadParameter(
                f"{written!r} is neither a date such as 2027-01-31 nor a moment such as 2027-01-31T12:00:00Z"
            ) from None
    return written


def _listed(
    _context: click.Context, _option: click.Parameter, written: tuple[str, ...]
) -> list[str]:
    words = " ".join(written).replace(",", " ").split()
    return list(dict.fromkeys(words))


@click.command("hash-key")
@click.option("--id", "name", metavar="ID", help="What logs may call it; drawn unless given.")
@click.option("--consumer", metavar="NAME", help="Whose it is; without it, its id.")
@click.option(
    "--expires",
    metavar="DATE",
    callback=_checked_expiry,
    help="Such as 2027-01-31 (to its end, UTC).",
)
@click.option(
    "--scopes", metavar="A,B", multiple=True, callback=_listed, help="What it is good for."
)
@click.option("--stdin", "given", is_flag=True, help="Hash the key on standard input; make none.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document, for programs.")
def hash_key(
    name: str | None,
    consumer: str | None,
    expires: str | None,
    scopes: list[str],
    given: bool,
    as_json: bool,
) -> None:
    """Make an API key, and the entry that lets it in.

    The key is shown this once. The entry goes into the keys_file of an api_key policy, under keys:
    it holds the key's SHA-256, from which nobody gets the key. A running gateway takes it within
    seconds, without a reload. --stdin hashes a key that exists, such as `head -c 32 /dev/urandom |
    base64 | gateway hash-key --stdin`.
    """
    import secrets
    from hashlib import sha256

    key = _read() if given else PREFIX + secrets.token_urlsafe(32)
    entry: dict[str, object] = {"id": name or f"key-{secrets.token_hex(4)}"}
    entry["sha256"] = sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    entry |= {"consumer": consumer} if consumer else {}
    entry |= {"expires": expires} if expires else {}
    entry |= {"scopes": scopes} if scopes else {}
    if as_json:
        shown: dict[str, object] = {"entry": entry} if given else {"key": key, "entry": entry}
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    if not given:
        click.echo(f"The key, shown this once:\n\n    {key}\n")
    click.echo("Its entry for keys_file, under keys:\n")
    # JSON's texts and lists are YAML, too; quotes keep 0123… and 2027-01-31 what they are.
    lines = [f"{field}: {json.dumps(value, ensure_ascii=False)}" for field, value in entry.items()]
    click.echo("  - " + "\n    ".join(lines))


def _read() -> str:
    """The key on standard input, without the end of its line."""
    raw = sys.stdin.buffer.read(LONGEST + 3)
    key = raw.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    if len(key.encode("utf-8", "surrogateescape")) > LONGEST:
        raise click.ClickException(f"a key has at most {LONGEST} bytes")
    if any(ord(sign) <= 32 or ord(sign) == 127 for sign in key):
        raise click.ClickException("a key is one line without spaces and control characters")
    if len(key) < FEWEST:
        raise click.ClickException(
            f"a key of fewer than {FEWEST} characters can be guessed: leave out --stdin to have one made"
        )
    return key
