"""The command line: parse, call, print.

Rules of this file: no logic and no aiohttp. What a command needs is imported inside it, so that
`check`, `explain` and `routes` answer in a fraction of a second. Results go to standard output,
what the service has to say to standard error. Exit codes: 0 well, 1 failed while running, 2 wrong
usage, 78 wrong configuration (EX_CONFIG of sysexits.h).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from gateway import looking, starting
from gateway.hash_key import hash_key
from gateway.terminal import (
    FAILED,
    WRONG_CONFIGURATION,
    config_option,
    fail,
    find,
    json_option,
    level_option,
    loaded,
    print_json,
    table,
)

if TYPE_CHECKING:
    from gateway.config import effective, model

COMMANDS = [
    looking.check,
    looking.explain,
    hash_key,
    looking.pipeline,
    looking.routes,
    looking.schema,
    looking.test,
    looking.version,
]
"""Those that stand in files of their own."""


@click.group(commands=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """An asynchronous reverse proxy and API gateway.

    Exit codes: 0 well, 1 failed while running, 2 wrong usage, 78 wrong configuration.
    """


# ── serving ───────────────────────────────────────────────────────────────────────────────────────


@main.command()
@config_option
@level_option
def run(config: str | None, log_level: str) -> None:
    """Serve until SIGTERM or SIGINT.

    SIGHUP reloads the configuration: all of it or, when it is wrong, nothing. SIGTERM drains and
    ends, SIGINT does so without the ready delay, a second one ends at once. SIGUSR1 opens the log
    files again.
    """
    starting.hold()
    path = find(config)
    settings = loaded(str(path))
    from gateway.serve import CannotStart, serve

    try:
        sys.exit(serve(settings, log_level))
    except CannotStart as error:
        fail(str(error), error.code)


@main.command()
@config_option
@level_option
@click.option("--origin-only", is_flag=True, help="Start only the small origin.")
@click.option("--origin-host", default="127.0.0.1", show_default=True)
@click.option("--origin-port", type=click.IntRange(0, 65535), default=9000, show_default=True)
def demo(
    config: str | None, log_level: str, origin_only: bool, origin_host: str, origin_port: int
) -> None:
    """Serve a sample configuration in front of a small origin, to try things.

    The origin's address is in ${env:DEMO_ORIGIN} while the configuration is read.
    """
    if not origin_only:
        starting.hold()
    from gateway.demo import demonstrate, sample
    from gateway.serve import CannotStart

    # A file that is missing is told before anything listens.
    path = None if origin_only else find(config or str(sample()))

    def load() -> effective.Config:
        return loaded(str(path))

    try:
        chosen = None if path is None else load
        sys.exit(demonstrate(chosen, origin_host, origin_port, log_level))
    except CannotStart as error:
        fail(str(error), error.code)


@main.command()
@config_option
@click.option("--timeout", default=2.0, show_default=True, help="Seconds.")
def healthcheck(config: str | None, timeout: float) -> None:
    """Ask a running gateway's admin listener whether it is ready: 0 yes, 1 no."""
    from gateway.health import ask

    well, answer = ask(asked(config).bind, timeout)
    if not well:
        loaded(config)  # a file that is wrong may be why
    click.echo(answer)
    sys.exit(0 if well else FAILED)


def asked(config: str | None) -> model.Admin:
    """The admin listener of the configuration, whatever else is wrong with it; ends with 1 where there is no address to
    ask.
    """
    from gateway.config import ConfigError, load_admin

    try:
        admin = load_admin(find(config))
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(WRONG_CONFIGURATION)
    if admin is None:
        fail("the admin listener is off: there is nobody to ask")
    if not (admin.bind.port or admin.bind.unix):
        fail("the admin listener has no fixed port to ask: its bind ends in :0")
    return admin


@main.command()
@config_option
@json_option
@click.option("--timeout", default=2.0, show_default=True, help="Seconds.")
def upstreams(config: str | None, as_json: bool, timeout: float) -> None:
    """Ask a running gateway how its upstreams are: each target with its state, why and since when.

    It is asked at the address of the configured admin listener; 1 if nobody answers there.
    """
    from gateway import health, listing

    try:
        found = health.upstreams(asked(config), timeout)
    except health.NoAnswer as error:
        loaded(config)  # a file that is wrong may be why
        fail(str(error))
    if as_json:
        print_json(found)
        return
    heading = ("UPSTREAM", "TARGET", "STATE", "SINCE", "WEIGHT", "IN FLIGHT", "CONNECTIONS", "WHY")
    table([heading, *listing.targets(found)])
