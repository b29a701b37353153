SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FAST := tests/unit tests/contract tests/integration tests/charts tests/chaos
DEEP := tests/cluster tests/e2e
# What must be covered; tracing the rest too takes a test twice as long.
COVER ?= everesthood.domain everesthood.usecases
export PYTHONDONTWRITEBYTECODE := 1

##@ Try it

.PHONY: demo
demo: $(READY)  ## A Kubernetes, the chart, the samples, and an agent at work
	$(BIN)/python -m demo up

.PHONY: demo-down
demo-down: $(READY)  ## Remove every trace of the demo
	$(BIN)/python -m demo down

##@ Check

.PHONY: test
test: check test-fast test-deep  ## Every tier, from unit to a real node

.PHONY: check
check: lint types contracts check-diff  ## All that needs no server

.PHONY: lint
lint: $(READY)  ## Style and likely mistakes
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --quiet --check

.PHONY: fmt
fmt: $(READY)  ## Format, and mend what can be mended
	$(BIN)/ruff check --quiet --fix-only
	$(BIN)/ruff format --quiet

.PHONY: types
types: $(READY)  ## Types, strictly
	$(BIN)/mypy --no-error-summary

.PHONY: contracts
contracts: $(READY)  ## Which room may import which
	$(BIN)/lint-imports --no-logo > $(VENV)/contracts.log || (cat $(VENV)/contracts.log; exit 1)

.PHONY: test-fast
test-fast: $(READY)  ## Unit, contract, integration and chart tests, with coverage
	$(BIN)/pytest $(FAST) -n 2 --dist loadfile $(COVER:%=--cov=%) --cov-report=xml --cov-report= -q
	$(BIN)/coverage report --include='*/everesthood/domain/*,*/everesthood/usecases/*' --fail-under=95 --skip-covered

.PHONY: test-deep
test-deep: $(READY)  ## Tests on a real Kubernetes: one is booted for the whole run
	$(BIN)/pytest $(DEEP) -q -rs -p no:randomly

.PHONY: bench
bench: $(READY)  ## Benchmarks, as ratios from one run
	$(BIN)/python -m tests.bench

.PHONY: chaos
chaos: $(READY)  ## Strike every process at every write, and write the table of docs/explanation/durability.md
	$(BIN)/python -m tests.chaos

##@ Generate

.PHONY: generate
generate: $(READY)  ## CRDs, manifests, references and .env.example from their sources
	$(BIN)/python -m tests.generate

.PHONY: check-diff
check-diff: $(READY)  ## Fail when something generated is stale
	$(BIN)/python -m tests.generate --check

.PHONY: lock
lock: $(READY)  ## Rewrite the lock files from pyproject.toml
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header -o requirements/runtime.txt pyproject.toml
	$(BIN)/uv pip compile -q --universal --generate-hashes --no-emit-index-url --no-header --group dev --group build -c requirements/runtime.txt -o requirements/dev.txt pyproject.toml

##@ Cluster

.PHONY: cluster-up cluster-down
cluster-up: $(READY)  ## A Kubernetes for development
	$(BIN)/python -m tests.cluster start
cluster-down: $(READY)  ## Remove it
	$(BIN)/python -m tests.cluster stop

.PHONY: images
images: $(READY)  ## Container images, into the cache
	$(BIN)/python -m tests.cluster images

.PHONY: help
help:  ## This list
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*##/ {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/bootstrap.txt requirements/dev.txt pyproject.toml
	python3 -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	$(BIN)/uv pip sync --quiet --require-hashes requirements/dev.txt requirements/bootstrap.txt
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation -e .
	touch $@
