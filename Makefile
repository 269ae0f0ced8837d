# Two commands matter: `make run` serves, `make test` proves.
# PYTHON names another interpreter (3.10 to 3.12): make run PYTHON=python3.12
SHELL := /bin/sh
PYTHON ?= $(shell for name in python3.11 python3.12 python3.10 python3; do command -v $$name >/dev/null 2>&1 && \
	$$name -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$name && break; done)
PIP := .venv/bin/python -m pip --disable-pip-version-check
REQUIREMENTS := pyproject.toml constraints.txt setup.py $(wildcard kernels/native/*)
SOURCES := lmaas.py setup.py api cli export kernels perf runtime train tests

.DEFAULT_GOAL := help
.PHONY: help run test check format clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

run: .venv/serve.installed ## Install what serving needs and serve the bundled models on 127.0.0.1:8080
	@exec .venv/bin/lmaas up

test: .venv/test.installed ## Install what the tests need and run them all, real Triton included
	.venv/bin/python -m pytest $(PYTEST)

check: .venv/test.installed ## Format, lint, types, import rules
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv/test.installed ## Write the code in its one format
	.venv/bin/ruff format $(SOURCES)
	.venv/bin/ruff check --fix $(SOURCES)

clean: ## Remove the environment, the state and every cache
	rm -rf .venv var kernels/operators.so build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@[ -n "$(PYTHON)" ] || { echo "lmaas: no Python 3.10, 3.11 or 3.12 found; install one, or name it: make run PYTHON=/path/to/python3.11"; exit 1; }
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "lmaas: this is $$(uname -sm), but Triton's server is built for Linux x86-64 only; run it there or in a container"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "lmaas: $(PYTHON) cannot make environments; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/serve.installed: $(REQUIREMENTS) | .venv/bin/python
	@echo "Installing what serving needs (once, some 600 MB on disk) ..."
	$(PIP) install --constraint constraints.txt --editable '.[serve]'
	@touch $@

# torch first and by its exact version: a range would take the newest build with its CUDA packages.
.venv/test.installed: $(REQUIREMENTS) | .venv/bin/python
	$(PIP) install --quiet torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@ .venv/serve.installed
