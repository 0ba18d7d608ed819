"""Commands that look at a configuration: check and lint it, run its tests, explain it.

Rules of this file: those of `cli.py`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from gateway.terminal import (
    FAILED,
    WRONG_CONFIGURATION,
    coloured,
    config_option,
    find,
    json_option,
    loaded,
    print_json,
    style,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gateway.config import effective
    from gateway.config.lint.rules import Finding
    from gateway.inline_tests import Outcome


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


COLOURS = {"info": "cyan", "warning": "yellow", "error": "red"}


def finding_json(finding: Finding) -> dict[str, object]:
    """One finding of --lint, for programs."""
    place = finding.place
    return {
        "code": finding.code,
        "severity": finding.severity,
        "file": place.file,
        "line": place.line,
        "column": place.column,
        "path": finding.path,
        "message": finding.message,
        "fix": finding.fix,
    }


def outcome_json(outcome: Outcome) -> dict[str, object]:
    """One inline test, for programs."""
    return {
        "name": outcome.name,
        "place": str(outcome.place),
        "passed": not outcome.problems,
        "problems": list(outcome.problems),
    }


@click.command()
@config_option
@json_option
@click.option("--strict", is_flag=True, help="A warning is a failure too.")
@click.option("--lint", is_flag=True, help="Tell also what is allowed but rarely meant.")
@click.option("--ignore", multiple=True, metavar="CODE", help="A rule of --lint to leave out.")
def check(
    config: str | None, as_json: bool, strict: bool, lint: bool, ignore: tuple[str, ...]
) -> None:
    """Read the configuration, report every mistake in it, and run its inline tests.

    Ends with 78 if a file is wrong or missing, with 1 if an inline test fails (or, with --strict,
    on a warning, or on a finding of --lint that is more than information).
    """
    from gateway.config import ConfigError, load

    path = find(config)
    try:
        settings = load(path)
        policies(settings)
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
    findings = [one for one in settings.findings() if one.code not in ignore] if lint else []
    bad = bool(settings.warnings) or any(one.counts for one in findings)
    well = not failed and not (strict and bad)
    if as_json:
        problems = [problem_json(problem, "warning") for problem in settings.warnings]
        tests = [outcome_json(outcome) for outcome in outcomes]
        found = {"findings": [finding_json(one) for one in findings]} if lint else {}
        print_json({"ok": well, "problems": problems, "tests": tests, **found})
    else:
        for warning in settings.warnings:
            note = style("warning", "yellow")
            click.echo(f"{warning.place}: {note}: {warning.path}: {warning.message}")
        for finding in findings:
            word = style(finding.severity, COLOURS[finding.severity])
            where = f"{finding.path}: " if finding.path else ""
            told = f"{where}{finding.message}: {finding.fix}"
            click.echo(f"{finding.place}: {word}: {finding.code}: {told}")
        print_outcomes(failed)
        counted = ", ".join(
            (
                count(len(settings.routes), "route"),
                count(len(settings.upstreams), "upstream"),
                f"{len(outcomes) - len(failed)} of {count(len(outcomes), 'test')} passed",
                *([count(len(findings), "finding")] if lint else []),
            )
        )
        verdict = style("ok", "green") if well else style("not ok", "red")
        click.echo(f"{path}: {verdict}: {counted}")
    sys.exit(0 if well else FAILED)


def policies(config: effective.Config) -> None:
    """Make the policies of `auth` as a start does. Raises ConfigError with all that cannot be put to use: a file of theirs
    that is wrong, a package that is missing.
    """
    if not config.auth:
        return
    from gateway.config import ConfigError
    from gateway.config.effective import Problem
    from gateway.entering import Entering

    problems = []
    for name, policy in config.auth.items():
        try:
            Entering(replace(config, auth={name: policy}))
        except (ValueError, OSError) as error:
            path = f"auth.{name}.{policy.method}"
            message = str(error).removeprefix(f"{path}: ").removeprefix(f"auth.{name}: ")
            problems.append(Problem(config.auth_places[name], path, message))
    if problems:
        raise ConfigError(problems)


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


@click.command()
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


def claims(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> dict[str, Any] | None:
    """`--claims '{"sub": "ann"}'`."""
    if value is None:
        return None
    try:
        found = json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter('a JSON object is wanted, such as \'{"sub": "ann"}\'')
    return found


@click.command()
@config_option
@json_option
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, callback=header, metavar="'NAME: VALUE'")
@click.option("--client-ip", default="127.0.0.1", show_default=True, help="Who asks.")
@click.option("--claims", callback=claims, metavar="JSON", help="What an accepted client is.")
@click.option("--consumer", help="The name of an accepted client.")
@click.option("--auth", help="The policy that has accepted it; the route's first if none is named.")
def explain(
    config: str | None,
    as_json: bool,
    method: str,
    url: str,
    headers: tuple[tuple[str, str], ...],
    client_ip: str,
    claims: dict[str, Any] | None,
    consumer: str | None,
    auth: str | None,
) -> None:
    """Show what a request would meet, without sending anything.

    Every route that was considered and what spoke against it, the winner, each setting with the
    place it comes from, the request that the upstream would get. Credentials in headers are
    checked where that takes no network; --claims, --consumer or --auth say instead that they were
    good. Ends with 1 if no route matches.
    """
    from gateway.explain import explain as explained
    from gateway.rehearsal import Given

    given = None
    if claims is not None or consumer is not None or auth is not None:
        given = Given(auth, claims or {}, consumer)
    try:
        explanation = explained(loaded(config), method.upper(), url, headers, client_ip, given)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        print_json(explanation.json())
    else:
        click.echo(explanation.text(coloured()).rstrip("\n"))
    sys.exit(0 if explanation.matched else FAILED)


@click.command()
@config_option
@json_option
def routes(config: str | None, as_json: bool) -> None:
    """List the routes: what each one takes, and what answers it."""
    from gateway import listing

    entries = listing.routes(loaded(config))
    if as_json:
        print_json(entries)
        return
    guarded = ("auth",) if any(entry["auth"] for entry in entries) else ()
    columns = ("name", "methods", "host", "path", *guarded, "answer", "place")
    heading = tuple(column.upper() for column in columns)
    table([heading, *(tuple(str(entry[column]) for column in columns) for entry in entries)])


@click.command()
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


@click.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors."""
    from gateway.config.schema import json_schema

    print_json(json_schema())


@click.command()
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
