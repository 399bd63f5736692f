# Everything a person or a CI machine needs; each target installs what it uses. Needs only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PORT ?= 8080

.DEFAULT_GOAL := help
.PHONY: help serve test test-slow check format constraints bench bench-peers bench-curves bench-overload bench-scale bench-gpu chaos fuzz docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

serve: $(VENV)/.installed-embedded ## the gateway with real small models behind it, on this machine's CPU
	@$(BIN)/seawall demo --port $(PORT)

test: $(VENV)/.installed-dev ## the tests (a few minutes)
	@$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: $(VENV)/.installed-dev ## the tests that need minutes or heavy parts
	@$(BIN)/python -m pytest -m slow --timeout 1800 $(ARGS)

check: $(VENV)/.installed-dev ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.installed-dev ## rewrite the sources in the one format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.installed-dev bench-peers ## Seawall and its peers side by side (a quarter of an hour; ARGS="--subjects seawall,envoy" for less)
	@$(BIN)/python -m benchmarks run $(ARGS)

bench-peers: $(VENV)/.installed-dev ## installs the peers that bench measures, each by itself under ~/.cache/seawall/bench
	@$(BIN)/python -m benchmarks peers

bench-curves: $(VENV)/.installed-dev ## how the gateway's cost grows with connections, routes, backends, keys, body size
	@$(BIN)/python -m benchmarks curves $(ARGS)

bench-overload: $(VENV)/.installed-dev ## goodput when up to ten times of what a backend can do is asked (a minute and a half)
	@$(BIN)/python -m benchmarks.overload $(ARGS)

bench-scale: $(VENV)/.installed-dev ## a thousand replicas, simulated (ten seconds): the figures of docs/scale.md
	@$(BIN)/python -m benchmarks.scale --redis $(ARGS)

bench-gpu: $(VENV)/.installed-dev ## the text and image workers on this machine's GPU, and real OOM (ARGS="--text DIR --pipeline DIR --save")
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

chaos: $(VENV)/.installed-dev ## break backends under load, and count what clients see (about six minutes)
	@$(BIN)/python -m benchmarks.chaos $(ARGS)

FUZZ := $(HOME)/.cache/seawall/fuzz/packages

fuzz: $(VENV)/.installed-dev ## all parsers under coverage-guided fuzzing, a minute each (ARGS="requests --seconds 600" for one)
	@test -d $(FUZZ)/atheris || $(BIN)/pip install -q --disable-pip-version-check --target $(FUZZ) atheris==3.0.0
	@PYTHONPATH=$(CURDIR):$(FUZZ) $(BIN)/python -m tests.fuzz $(ARGS)

constraints: $(VENV)/.installed-dev ## pin every dependency anew
	@$(BIN)/pip install -q pip-tools
	@$(BIN)/pip-compile -q --upgrade --strip-extras --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--extra embedded --extra transformers --extra diffusers --extra redis --extra discovery --extra gpu --extra otel --extra alerts --extra dev -o constraints.txt pyproject.toml
	@sed -i 's/+cpu//' constraints.txt

docs: $(VENV)/bin/python ## the documentation as a site, in build/site
	@test -x $(VENV)-docs/bin/mkdocs || { $(PYTHON) -m venv $(VENV)-docs && $(VENV)-docs/bin/pip install -q --disable-pip-version-check 'mkdocs-material==9.8.2'; }
	@$(VENV)-docs/bin/mkdocs build -q --strict -f .mkdocs.yml && echo "open build/site/index.html"

clean: ## removes the environment and all caches
	rm -rf $(VENV) $(VENV)-docs .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("Seawall needs Python 3.11 or newer; found " + sys.version.split()[0] + ". Try: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-embedded: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing Seawall and its embedded models (once, about a minute) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[embedded,diffusers]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed-embedded
	@echo "Installing the tools for tests and checks (once) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[embedded,diffusers,redis,discovery,gpu,otel,alerts,dev]'
	@touch $@
