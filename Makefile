# make run      a demo origin and the gateway in front of it, with URLs to try
# make test     all tests                         make check   style, types, layers, schema
# make autobahn the Autobahn WebSocket cases through a tunnel
# make conformance-nginx   the conformance cases, put to nginx: what it does otherwise
# make bench    side by side with other proxies   make fmt golden schema   rewrite what is generated
#
# PYTHON=python3.12 chooses the interpreter; each one that is named has an environment of its own (.venv-3.12).
# An environment is installed when it is missing or when pyproject.toml is another than the one it was installed from;
# otherwise nothing here needs a network.

# The first of the given commands that runs a Python which is new enough. A command of pyenv's that its settings do not
# let through is looked for among pyenv's versions.
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
usable = $(shell for name in $(1); do \
	for each in $$name $$(command -v $$name | sed -n 's|/shims/|/versions/*/bin/|p'); do \
	$$each $(NEW_ENOUGH) && echo $$each && exit; done; done)

ifeq ($(origin PYTHON),undefined)
INTERPRETER := $(call usable,python3 python3.13 python3.12 python3.11 python3.14)
VENV := .venv
else
INTERPRETER := $(call usable,$(PYTHON))
VENV := .venv-$(shell $(or $(INTERPRETER),false) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
BIN := $(VENV)/bin

# The loop that tests run on: uvloop or asyncio.
export GATEWAY_TEST_LOOP ?= uvloop

.PHONY: all setup interpreter run test test-loops check fmt golden schema bench autobahn conformance-nginx clean
all: check test

setup:
	@if [ -z "$(INTERPRETER)" ]; then \
		echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@if ! cmp -s pyproject.toml $(VENV)/installed.toml || ! $(BIN)/python -c '' 2>/dev/null; then \
		echo "setting up $(VENV) with $$($(INTERPRETER) --version)" && \
		$(INTERPRETER) -m venv --clear $(VENV) && \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' && \
		cp pyproject.toml $(VENV)/installed.toml; fi

# The interpreter that PYTHON stands for; fails where there is none.
interpreter:
	@echo $(or $(INTERPRETER),"no Python 3.11 or newer is called $(PYTHON)"); [ -n "$(INTERPRETER)" ]

run: setup
	@exec $(BIN)/gateway demo -c config/gateway.yaml

test: setup
	$(BIN)/python -m pytest -n 2 $(ARGS)

# On asyncio's own loop as well as on uvloop.
test-loops: setup
	GATEWAY_TEST_LOOP=uvloop $(BIN)/python -m pytest -n 2 $(ARGS)
	GATEWAY_TEST_LOOP=asyncio $(BIN)/python -m pytest -n 2 $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/gateway schema | cmp - config/schema.json || { echo "config/schema.json is old: make schema" >&2; exit 1; }

fmt: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

golden: setup
	GATEWAY_GOLDEN=rewrite $(BIN)/python -m pytest -q tests/golden tests/config

schema: setup
	$(BIN)/gateway schema > config/schema.json.new && mv config/schema.json.new config/schema.json

autobahn: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[autobahn]'
	$(BIN)/python -m tests.autobahn $(ARGS)

# Nothing fails here: a list of differences is what is wanted.
conformance-nginx: setup
	-GATEWAY_REFERENCE=nginx GATEWAY_TEST_PATIENCE=1 $(BIN)/python -m pytest -n 2 -q --tb=no -r N tests/e2e/conformance $(ARGS)

bench: setup
	$(BIN)/python -m tests.bench.side_by_side $(ARGS)
	$(BIN)/python -m tests.bench.upstream_cost
	$(BIN)/python -m tests.bench.entrance_cost

clean:
	rm -rf .venv .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
