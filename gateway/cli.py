"""The command line: parse, call, print.

Rules of this file: no logic and no aiohttp. What a command needs is imported inside it, so that
`check`, `explain` and `routes` answer in a fraction of a second. Results go to standard output,
what the service has to say to standard error. Exit codes: 0 well, 1 failed while running, 2 wrong
usage, 78 wrong configuration (EX_CONFIG of sysexits.h).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from gateway import starting
from gateway.hash_key import hash_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config import effective, model
    from gateway.inline_tests import Outcome

FAILED, WRONG_CONFIGURATION = 1, 78
LEVELS = ("debug", "info", "warning", "error", "critical")


# ── finding and loading the file ──────────────────────────────────────────────────────────────────


def places() -> list[Path]:
    """Where a configuration is looked for when `-c` names none, in this order."""
    configured = os.environ.get("GATEWAY_CONFIG")
    if configured:
        return [Path(configured)]
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return [
        Path("gateway.yaml"),
        Path(home) / "gateway" / "gateway.yaml",
        Path("/etc/gateway/gateway.yaml"),
    ]


def find(config: str | None) -> Path:
    """The file that `-c`, the environment or the usual places name; without one, exit 78."""
    candidates = [Path(config)] if config else places()
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    named = ", ".join(map(str, candidates))
    hint = "" if config else "; name one with -c FILE or $GATEWAY_CONFIG"
    click.echo(f"gateway: no configuration file at {named}{hint}", err=True)
    sys.exit(WRONG_CONFIGURATION)


def loaded(config: str | None) -> effective.Config:
    """The configuration; ends with 78 and every mistake on standard error when it is wrong."""
    from gateway.config import ConfigError, load

    try:
        return load(find(config))
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(WRONG_CONFIGURATION)


def coloured() -> bool:
    """Colours are for terminals, and for those who have not said no (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def print_json(value: object) -> None:
    """One JSON document, for programs."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def style(text: str, colour: str) -> str:
    """`text` in a colour where colours are wanted."""
    return click.style(text, fg=colour) if coloured() else text


def table(rows: Iterable[tuple[str, ...]]) -> None:
    """Columns as wide as their widest cell; the last one is free."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        click.echo("  ".join(map(str.ljust, line, widths)).rstrip())


config_option = click.option(
    "-c",
    "--config",
    metavar="FILE",
    help="The configuration; without it $GATEWAY_CONFIG, ./gateway.yaml, "
    "$XDG_CONFIG_HOME/gateway/gateway.yaml, /etc/gateway/gateway.yaml.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="One JSON document, for programs."
)
level_option = click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    show_default=True,
    help="How much of the service log is written.",
)


@click.group(commands=[hash_key], context_settings={"help_option_names": ["-h", "--help"]})
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
        fail(str(error))


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
        fail(str(error))


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


def fail(message: str) -> NoReturn:
    """End with 1 and one plain line."""
    click.echo(f"gateway: {message}", err=True)
    sys.exit(FAILED)


# ── looking at a configuration ────────────────────────────────────────────────────────────────────


def problem_json(problem: effective.Problem, severity: str) -> dict[str, object]:
    """One finding, for programs."""
    place = problem.place
    return {
        "severity": severity,
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "path": problem.path,
        "message": problem.message,
    }


def outcome_json(outcome: Outcome) -> dict[str, object]:
    """One inline test, for programs."""
    return {
        "name": outcome.name,
        "place": str(outcome.place),
        "passed": not outcome.problems,
        "problems": list(outcome.problems),
    }


@main.command()
@config_option
@json_option
@click.option("--strict", is_flag=True, help="A warning is a failure too.")
def check(config: str | None, as_json: bool, strict: bool) -> None:
    """Read the configuration, report every mistake in it, and run its inline tests.

    Ends with 78 if a file is wrong or missing, with 1 if an inline test fails (or, with --strict,
    on a warning).
    """
    from gateway.config import ConfigError, load

    path = find(config)
    try:
        settings = load(path)
    except ConfigError as error:
        if as_json:
            problems = [problem_json(problem, "error") for problem in error.problems]
            print_json({"ok": False, "problems": problems, "tests": []})
        else:
            click.echo(str(error))
        sys.exit(WRONG_CONFIGURATION)
    from gateway import inline_tests

    outcomes = inline_tests.run(settings)
    failed = [outcome for outcome in outcomes if outcome.problems]
    well = not failed and not (strict and settings.warnings)
    if as_json:
        problems = [problem_json(problem, "warning") for problem in settings.warnings]
        tests = [outcome_json(outcome) for outcome in outcomes]
        print_json({"ok": well, "problems": problems, "tests": tests})
    else:
        for warning in settings.warnings:
            note = style("warning", "yellow")
            click.echo(f"{warning.place}: {note}: {warning.path}: {warning.message}")
        print_outcomes(failed)
        counted = ", ".join(
            (
                count(len(settings.routes), "route"),
                count(len(settings.upstreams), "upstream"),
                f"{len(outcomes) - len(failed)} of {count(len(outcomes), 'test')} passed",
            )
        )
        verdict = style("ok", "green") if well else style("not ok", "red")
        click.echo(f"{path}: {verdict}: {counted}")
    sys.exit(0 if well else FAILED)


def count(number: int, noun: str) -> str:
    """Such as `1 route`, `2 routes`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_outcomes(outcomes: Iterable[Outcome]) -> None:
    """Each inline test with what was wrong about it."""
    for outcome in outcomes:
        verdict = style("failed", "red") if outcome.problems else style("passed", "green")
        click.echo(f"{outcome.place}: {verdict}: {outcome.name}")
        for problem in outcome.problems:
            click.echo(f"    {problem}")


@main.command()
@config_option
@json_option
def test(config: str | None, as_json: bool) -> None:
    """Run the inline tests of the configuration; 1 if one fails. No upstream is touched."""
    from gateway import inline_tests

    outcomes = inline_tests.run(loaded(config))
    failed = [outcome for outcome in outcomes if outcome.problems]
    if as_json:
        print_json([outcome_json(outcome) for outcome in outcomes])
    else:
        print_outcomes(outcomes)
        click.echo(f"{len(outcomes) - len(failed)} of {count(len(outcomes), 'test')} passed")
    sys.exit(FAILED if failed else 0)


def header(_context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> Any:
    """`-H 'Name: value'` as curl takes it."""
    pairs = []
    for value in values:
        name, colon, rest = value.partition(":")
        if not colon or not name.strip():
            raise click.BadParameter(f"{value!r} is not 'Name: value'")
        pairs.append((name.strip(), rest.strip()))
    return tuple(pairs)


@main.command()
@config_option
@json_option
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, callback=header, metavar="'NAME: VALUE'")
@click.option("--client-ip", default="127.0.0.1", show_default=True, help="Who asks.")
def explain(
    config: str | None,
    as_json: bool,
    method: str,
    url: str,
    headers: tuple[tuple[str, str], ...],
    client_ip: str,
) -> None:
    """Show what a request would meet, without sending anything.

    Every route that was considered and what spoke against it, the winner, each setting with the
    place it comes from, the request that the upstream would get. Ends with 1 if no route matches.
    """
    from gateway.explain import explain as explained

    try:
        explanation = explained(loaded(config), method.upper(), url, headers, client_ip)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        print_json(explanation.json())
    else:
        click.echo(explanation.text(coloured()).rstrip("\n"))
    sys.exit(0 if explanation.matched else FAILED)


@main.command()
@config_option
@json_option
def routes(config: str | None, as_json: bool) -> None:
    """List the routes: what each one takes, and what answers it."""
    from gateway import listing

    entries = listing.routes(loaded(config))
    if as_json:
        print_json(entries)
        return
    columns = ("name", "methods", "host", "path", "answer", "place")
    heading = tuple(column.upper() for column in columns)
    table([heading, *(tuple(str(entry[column]) for column in columns) for entry in entries)])


@main.command()
@config_option
@json_option
@click.argument("route")
def pipeline(config: str | None, as_json: bool, route: str) -> None:
    """Show the stages that a request for ROUTE passes through, in their order."""
    from gateway.explain import pipeline as stages_of

    settings = loaded(config)
    found = next((entry for entry in settings.routes if entry.name == route), None)
    if found is None:
        names = ", ".join(entry.name for entry in settings.routes)
        raise click.UsageError(f"no route is called {route!r}; there are: {names}")
    stages = stages_of(found, settings)
    if as_json:
        print_json([{"stage": stage, "does": does} for stage, does in stages])
    else:
        table(stages)


@main.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from gateway.config.schema import json_schema

    print_json(json_schema())


@main.command()
@json_option
def version(as_json: bool) -> None:
    """Say which gateway this is, and on what it runs."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as of

    from gateway import __version__

    versions = {"gateway": __version__, "python": platform.python_version()}
    for name in ("aiohttp", "uvloop"):
        try:
            versions[name] = of(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    if as_json:
        print_json(versions)
    else:
        own = versions.pop("gateway")
        click.echo(f"gateway {own} ({', '.join(f'{n} {v}' for n, v in versions.items())})")
