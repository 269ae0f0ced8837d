# Two commands matter: `make run` serves, `make test` proves.
# PYTHON names another interpreter (3.10 to 3.12): make run PYTHON=python3.12
# TORCH_INDEX names a package index with builds of torch for CPUs: see `.venv/test.installed` below
SHELL := /bin/sh
PYTHON ?= $(shell for name in python3.11 python3.12 python3.10 python3; do command -v $$name >/dev/null 2>&1 && \
	$$name -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$name && break; done)
TORCH_INDEX ?=
STATE := $(or $(LMAAS_HOME),var)
PIP := .venv/bin/python -m pip --disable-pip-version-check
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
REQUIREMENTS := pyproject.toml constraints.txt setup.py $(wildcard kernels/native/*.* kernels/native/levels/*)
SOURCES := lmaas.py sbom.py setup.py api bench cli client docs export helm kernels perf runtime train tests

.DEFAULT_GOAL := help
.PHONY: help run test test-cuda check docs chaos images-test format clean purge environment writable unused

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

run: .venv/serve.installed | environment ## Install what serving needs and serve the bundled models on 127.0.0.1:8080
	@exec .venv/bin/lmaas up

test: .venv/test.installed | environment ## Install what the tests need and run them all, real Triton included
	.venv/bin/python -m pytest --numprocesses 3 --dist loadfile $(PYTEST)

# `pip --python` installs apart from .venv: onnxruntime-gpu and onnxruntime own the same files.
test-cuda: .venv-cuda/installed ## Run the tests of the GPU path: the real onnxruntime-gpu on a CUDA that computes nothing (350 MB, gcc)
	.venv-cuda/bin/python -m pytest -m cuda tests/cuda $(PYTEST)

check: .venv/test.installed ## Format, lint, types, import rules
	.venv/bin/ruff format --check $(SOURCES)
	.venv/bin/ruff check $(SOURCES)
	.venv/bin/mypy
	.venv/bin/lint-imports

docs: .venv/docs.installed | environment ## Build the documents as a site in build/docs/site, and check its links
	.venv/bin/python -m docs.site

chaos: .venv/test.installed ## Inflict faults on running appliances under load, and count what they lose (10 minutes)
	.venv/bin/python -m bench chaos

images-test: .venv/test.installed ## Build the images and run them as containers, with the end-to-end tests (root, Debian; 6 minutes)
	@[ "$$(id -u)" = 0 ] && command -v buildah >/dev/null && command -v debootstrap >/dev/null || \
		{ echo "lmaas: root builds the images, with buildah on a base of debootstrap: apt-get install buildah debootstrap"; exit 1; }
	.venv/bin/python -m pytest -s -m containers tests/images/test_containers.py

format: .venv/test.installed ## Write the code in its one format, and the chart's schema and table
	.venv/bin/ruff format $(SOURCES)
	.venv/bin/ruff check --fix $(SOURCES)
	.venv/bin/python -m helm.documents

clean: unused ## Remove the environment and every cache; the state stays
	rm -rf .venv .venv-cuda kernels/operators.so kernels/preload.so build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

purge: clean ## Remove the state as well: models, records of tasks, logs
	rm -rf -- "$(STATE)"

# A server holds a lock on its state's folder.
unused:
	@[ ! -x .venv/bin/python ] || [ ! -e "$(STATE)/lock" ] || .venv/bin/python -c \
		'import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)' "$(STATE)/lock" 2>/dev/null || \
		{ echo "lmaas: process $$(cat "$(STATE)/lock") serves from $(STATE) and from this environment: stop it first"; exit 1; }

writable:
	@[ -w . ] && { [ ! -e .venv ] || [ -w .venv ]; } || \
		{ echo "lmaas: $$PWD cannot be written by $$(id -un): install in a copy of your own, or have its owner install"; exit 1; }

# What is there must be whole, and of the Python that was asked for.
environment: | .venv/bin/python
	@.venv/bin/python -c 'import pip, sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || \
		{ echo "lmaas: the environment .venv is not whole, or of another Python than 3.10 to 3.12: remove it (make clean) and try again"; exit 1; }
	@[ "$(origin PYTHON)" = file ] || [ "$$($(PYTHON) -c '$(VERSION)' 2>/dev/null)" = "$$(.venv/bin/python -c '$(VERSION)')" ] || \
		{ echo "lmaas: the environment .venv is of Python $$(.venv/bin/python -c '$(VERSION)'), not of $(PYTHON): remove it (make clean) and try again"; exit 1; }

.venv/bin/python: | writable
	@[ -n "$(PYTHON)" ] || { echo "lmaas: no Python 3.10, 3.11 or 3.12 found; install one, or name it: make run PYTHON=/path/to/python3.11"; exit 1; }
	@[ "$$(uname -sm)" = "Linux x86_64" ] || { echo "lmaas: this is $$(uname -sm), but Triton's server is built for Linux x86-64 only; run it there or in a container"; exit 1; }
	@case "$$PWD" in *[:\;\"\`\$$\\]*) echo "lmaas: the name of the folder $$PWD has one of : ; \" \` \$$ \\ in it, which programs in .venv cannot bear: rename it"; exit 1;; esac
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null || \
		{ echo "lmaas: $(PYTHON) is no Python 3.10, 3.11 or 3.12, which Triton and NumPy are built for: name one of these, as PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "lmaas: $(PYTHON) cannot make environments; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import sys; from api.back.cluster.installation import Installation as I; sys.exit((m := I.find().missing_libpython) and f"lmaas: {m}")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/serve.installed: $(REQUIREMENTS) | environment writable
	@echo "Installing what serving needs (once, some 600 MB on disk) ..."
	$(PIP) install --constraint constraints.txt --editable '.[serve]'
	@touch $@

.venv/docs.installed: $(REQUIREMENTS) | environment writable
	$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@ .venv/serve.installed

# torch first, and by its exact version. A plain index has the build with CUDA, some gigabytes; PyTorch publishes
# builds for CPUs on an index of its own, which its page "Get started" names: make test TORCH_INDEX=...
.venv/test.installed: $(REQUIREMENTS) | environment writable
	$(PIP) install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@ .venv/serve.installed .venv/docs.installed

# The packages of .venv and in front of them the build for GPUs; the headers of CUDA 13.0, and none of its libraries;
# the parser of TensorRT, by its RTX form, which loads without a GPU.
.venv-cuda/installed: constraints.txt | .venv/test.installed
	@.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lmaas: onnxruntime-gpu for CUDA 13 needs Python 3.11 or 3.12: make clean, then make test-cuda PYTHON=python3.11")'
	.venv/bin/python -m venv --without-pip --clear .venv-cuda
	$(PIP) --python .venv-cuda/bin/python install --quiet --constraint constraints.txt --no-deps onnxruntime-gpu
	$(PIP) install --quiet --no-deps --target .venv-cuda/headers nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88
	$(PIP) --python .venv-cuda/bin/python install --quiet --no-deps \
		tensorrt-rtx-cu13-bindings==1.7.1.116 tensorrt-rtx-cu13-libs==1.7.1.116
	.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$(.venv-cuda/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests.pth"
	@touch $@
