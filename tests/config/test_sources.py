"""Files that include files, and what `${env:…}` and `${file:…}` stand for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import ConfigError, load, load_dict, load_text
from gateway.config.nodes import Source, text
from gateway.config.sources import Sources
from tests.config.kit import ROUTE, loaded, messages, refused, route


def respond(body: str, base: Path | str = ".") -> str:
    answer = loaded(f"routes:\n  - respond:\n      body: {body}\n", base).routes[0].answer
    return answer.body  # type: ignore[union-attr,return-value]


def test_a_variable_stands_for_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "one")
    assert respond("'${env:A}'") == "one"
    assert respond("'x${env:A}y${env:A}z'") == "xoneyonez"
    assert respond("'${env:NOPE:-two}'") == "two"
    assert respond("'${env:A:-two}'") == "one"
    assert respond("'${env:NOPE:-}'") == ""
    assert respond("'$${env:A} $5 $'") == "${env:A} $5 $"


def test_a_variable_that_is_set_but_empty_takes_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A", "")
    assert respond("'${env:A:-x}'") == "x"
    assert respond("'${env:A}'") == ""


def test_a_value_is_read_by_the_type_of_its_field_and_never_as_yaml(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A", "[a, b]: {C}\nd: off # x")
    assert respond("${env:A}") == "[a, b]: {C}\nd: off # x"
    monkeypatch.setenv("A", "NO")
    assert respond("${env:A}") == "NO"
    monkeypatch.setenv("A", "7s")
    assert route("timeouts: {idle: '${env:A}'}").policies.timeouts.idle == 7
    monkeypatch.setenv("A", "off")
    made = route("timeouts: {idle: '${env:A}'}\nretry: ${env:A}\naccess_log: ${env:A}").policies
    assert (made.timeouts.idle, made.retry, made.access_log) == (None, None, False)
    monkeypatch.setenv("A", "8081")
    assert loaded(f"listeners: ['127.0.0.1:${{env:A}}']\n{ROUTE}").listeners[0].bind.port == 8081


def test_keys_are_not_expanded() -> None:
    assert "'${env:HOME}' is not known here" in messages("${env:HOME}: 1\n" + ROUTE)


def test_nothing_else_is_said_of_a_text_that_stands_for_nothing() -> None:
    found = refused(
        "server: {secret: '${env:NOPE}'}\n"
        "auth:\n"
        "  j: {jwt: {secret: '${env:NOPE}', typ: at+jwt}}\n"
        "  h: {hmac: {scheme: standard-webhooks, secret: ['${env:NOPE}', '${env:NOPE}']}}\n"
        "  k: {jwt: {secret: too-short}}\n"
        "stores: {r: '${env:NOPE}'}\n"
        "routes: [{path: /a, respond: 204, hsts: never}]\n"
    )
    told = [line.partition(": ") for line in found]
    assert [place for place, _, _ in told] == [
        "1:18",
        "3:21",
        "4:50",
        "4:65",
        "5:12",
        "6:13",
        "7:41",
    ]
    unset = [line for line in found if "the variable NOPE is not set" in line]
    assert len(unset) == 5


@pytest.mark.parametrize(
    ("written", "fix"),
    [
        ("${env:NOPE}", "the variable NOPE is not set: set it, or write ${env:NOPE:-default}"),
        ("${NOPE}", "write ${env:NAME}, ${env:NAME:-default}, ${file:PATH}"),
        ("${env:}", "is no name of a variable"),
        ("${env:a b}", "is no name of a variable"),
        ("${file:}", "names no file"),
        ("${file:/nowhere/at/all}", "/nowhere/at/all cannot be read: No such file"),
        ("${env:A", "${ is not closed"),
    ],
)
def test_what_stands_for_nothing_is_refused_at_its_place(written: str, fix: str) -> None:
    (line,) = refused(f"routes:\n  - respond:\n      body: '{written}'\n")
    assert line.startswith("3:13: routes[0].respond.body: ")
    assert fix in line


def test_a_file_stands_for_its_text_without_one_line_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"secret\n\n")
    assert respond("'<${file:a}>'", tmp_path) == "<secret\n>"
    (tmp_path / "a").write_bytes(b"secret\r\n")
    assert respond("'<${file:a}>'", tmp_path) == "<secret>"
    (tmp_path / "a").write_bytes(b"\xff")
    assert "is not UTF-8" in refused("routes: [{respond: {body: '${file:a}'}}]", tmp_path)[0]


def test_what_a_variable_holds_is_not_expanded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "${env:B} $${")
    monkeypatch.setenv("B", "no")
    assert respond("${env:A}") == "${env:B} $${"


@given(st.text(alphabet="ab${}:-evn\n", max_size=30))
def test_any_text_expands_or_is_refused_with_a_sentence(written: str) -> None:
    sources = Sources({"a": "1"})
    made = text(written, Source("x", Path("/nowhere")), 0, 0, plain=False)
    try:
        value, refusal = str(sources.expand(made)), ""
    except ValueError as error:
        value, refusal = None, str(error)
    assert value is not None or len(refusal) > 10
    if "${" not in written:
        assert value == written


@given(st.text(max_size=30))
def test_a_doubled_dollar_gives_back_any_text(written: str) -> None:
    made = text(written.replace("${", "$${"), Source("x", Path()), 0, 0, plain=False)
    if "$$${" not in made:
        assert Sources({}).expand(made) == written


# ── includes ────────────────────────────────────────────────────────────────────────────────────


def write(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / (name.replace("__", "/") + ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder / "main.yaml"


def test_globs_are_sorted_and_files_are_read_once(tmp_path: Path) -> None:
    one = "routes: [{{path: /{0}, to: 'http://h'}}]\n"
    main = write(
        tmp_path,
        main="include: [d/*.yaml, d/a.yaml]\nroutes: [{path: /main, to: 'http://h'}]\n",
        d__b=one.format("b"),
        d__a=one.format("a"),
        d__c=one.format("c"),
    )
    config = load(main)
    assert [route.match.path.text for route in config.routes] == ["/main", "/a", "/b", "/c"]
    assert [name.rsplit("/", 1)[1] for name in config.files] == [
        *("main.yaml", "a.yaml", "b.yaml", "c.yaml")
    ]


def test_a_glob_may_be_empty_but_a_name_must_exist(tmp_path: Path) -> None:
    main = write(tmp_path, main="include: [none/*.yaml]\n" + ROUTE)
    assert len(load(main).routes) == 1
    main = write(tmp_path, main="include: none.yaml\n" + ROUTE)
    with pytest.raises(ConfigError, match=r"main\.yaml:1:10: include\[0\]: there is no file none"):
        load(main)


def test_upstreams_and_profiles_are_shared_between_files(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main="include: a.yaml\nroutes: [{path: /x, to: u, use: p}]\n",
        a="x-a: 1\nupstreams: {u: 'http://h:1'}\nprofiles: {p: {body: 1MiB}}\n",
    )
    config = load(main)
    assert config.upstreams["u"].settings.targets[0].url == "http://h:1"
    assert config.routes[0].policies.body.max == 2**20
    origin = config.routes[0].origins["body.max"]
    assert (origin.layer, origin.place and origin.place.line) == ("profile p", 3)


def test_a_name_that_is_defined_twice_is_told_with_both_places(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main="include: a.yaml\nupstreams: {u: 'http://h'}\nroutes: [{path: /x, to: u}]\n",
        a="upstreams: {u: 'http://h:1'}\nprofiles: {}\n",
    )
    with pytest.raises(ConfigError) as raised:
        load(main)
    (line,) = str(raised.value).splitlines()
    assert "a.yaml:1:13: upstreams.u: u is defined twice: the first one is at " in line
    assert line.endswith("main.yaml:2:13")


def test_an_included_file_holds_only_what_can_be_shared(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main="include: a.yaml\n" + ROUTE,
        a="server: {}\ninclude: b.yaml\nplugins: {}\nrouts: []\ndefaults: {}\n",
    )
    with pytest.raises(ConfigError) as raised:
        load(main)
    lines = [line.split("a.yaml:")[1] for line in str(raised.value).splitlines()]
    may = (
        "may stand in the main file only; an included file holds auth, profiles, "
        "rate_limits, routes, stores, tests, upstreams"
    )
    assert lines[0] == f"1:1: server: server {may}"
    assert lines[1] == f"2:1: include: include {may}"
    assert lines[2] == "3:1: plugins: plugins is not supported yet"
    assert "did you mean routes?" in lines[3]
    assert lines[4] == f"5:1: defaults: defaults {may}"


def test_mistakes_of_all_files_are_told_in_one_go(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main="include: ['*.yaml']\nroutes: [{path: x, to: u}]\n",
        a="upstreams: {u: 'ws://h'}\n",
        b="a: *b\n",
        c="routes: [{path: /*, to: v, body: 10}]\n",
    )
    with pytest.raises(ConfigError) as raised:
        load(main)
    places = [(p.place.file[-6:], p.path) for p in raised.value.problems]
    assert places == [
        ("n.yaml", "routes[0].path"),
        ("a.yaml", "upstreams.u"),
        ("b.yaml", ""),
        ("c.yaml", "routes[0].to"),
        ("c.yaml", "routes[0].body"),
    ]


def test_relative_paths_start_from_the_file_that_holds_them(tmp_path: Path) -> None:
    main = write(
        tmp_path,
        main=(
            "include: d/a.yaml\nlisteners: ['unix:run/s.sock']\nerrors: {pages: {503: p.html}}\n"
            "observability: {access_log: {file: log}}\n"
        ),
        d__a=(
            "upstreams: {u: {targets: ['unix:app.sock', 'https://h'], tls: {ca: ca.pem}}}\n"
            "routes: [{path: /s, static: www}, {path: /u, to: u}, {path: /v, to: 'unix:v.sock'}]\n"
        ),
    )
    (tmp_path / "p.html").write_text("x")
    (tmp_path / "d" / "ca.pem").write_text("x")
    config = load(main)
    inner = tmp_path / "d"
    assert config.listeners[0].bind.unix == str(tmp_path / "run/s.sock")
    assert config.errors.pages["503"].file == str(tmp_path / "p.html")
    assert config.observability.access_log is not None
    assert config.observability.access_log.file == str(tmp_path / "log")
    assert config.upstreams["u"].settings.targets[0].url == f"unix:{inner / 'app.sock'}"
    assert config.upstreams["u"].settings.tls.ca == str(inner / "ca.pem")
    assert config.upstreams["/v"].settings.targets[0].url == f"unix:{inner / 'v.sock'}"
    assert config.routes[0].answer.root == str(inner / "www")  # type: ignore[union-attr]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml cannot be read: No such file"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2:4: this is not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_the_digest_changes_with_every_text_that_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main = write(
        tmp_path,
        main="include: a.yaml\nroutes: [{respond: {body: '${env:A}${file:f}'}}]\n",
        a="x-a: 1\n",
    )
    digests = set()
    for variable, secret, included in (
        ("1", "s", "1"),
        ("2", "s", "1"),
        ("2", "t", "1"),
        ("2", "t", "2"),
    ):
        monkeypatch.setenv("A", variable)
        (tmp_path / "f").write_text(secret)
        (tmp_path / "a.yaml").write_text(f"x-a: {included}\n")
        digests.add(load(main).digest)
        digests.add(load(main).digest)
    assert len(digests) == 4
    assert all(len(digest) == 12 and int(digest, 16) >= 0 for digest in digests)


def test_python_data_is_read_by_the_same_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A", "9s")
    config = load_dict(
        {
            "version": 1,
            "admin": False,
            "routes": [
                {
                    "path": "/*",
                    "to": "http://h:1",
                    "timeouts": {"idle": "${env:A}", "total": None},
                    "retry": {"max": 2, "on": ["connect", 503]},
                    "rewrite": {"path": "/{method}"},
                    "methods": ("GET", "POST"),
                }
            ],
        }
    )
    made = config.routes[0]
    assert config.admin is None
    assert made.policies.timeouts.idle == 9
    assert made.policies.retry is not None
    assert made.policies.retry.on == ("connect", "503")
    assert made.match.methods == ("GET", "POST")
    with pytest.raises(ConfigError, match="a time needs a unit: write 30s"):
        load_dict({"routes": [{"path": "/*", "to": "http://h", "timeouts": {"idle": 30}}]})


def test_a_text_has_the_name_and_the_folder_that_it_is_given(tmp_path: Path) -> None:
    config = load_text("routes: [{static: www}]", name="mine.yaml", base=tmp_path)
    assert config.routes[0].place.file == "mine.yaml"
    assert config.routes[0].answer.root == str(tmp_path / "www")  # type: ignore[union-attr]
