# `make demo` and `make test` set up all that they need. `make help` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SUDO   := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check --use-pep517 --constraint constraints.txt
PROTOC := $(BIN)/python -m grpc_tools.protoc -Icaa/proto=proto

# Many tests wait more than they compute.
WORKERS := $(shell echo $$(($$(nproc) * 2)))

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types proto proto-check manifests image-proof podvm-proof bench clean iproute2 debootstrap

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/runtime ## One pod in one VM, from end to end, on this machine (root; sudo is used if need be)
	@$(SUDO) $(BIN)/caa demo

test: $(VENV)/dev iproute2 ## All tests (those that need root are skipped without it)
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist worksteal $(TESTS)

lint: $(VENV)/dev proto-check types ## Style, types, and whether the generated code is current
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev
	$(BIN)/mypy

format: $(VENV)/dev ## Format the code
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

proto: $(VENV)/dev ## Generate caa/proto from proto/
	$(PROTOC) --python_out=. --pyi_out=. proto/*.proto

proto-check: $(VENV)/dev
	@fresh=$$(mktemp -d) && trap 'rm -rf "$$fresh"' EXIT && \
	$(PROTOC) --python_out="$$fresh" --pyi_out="$$fresh" proto/*.proto && \
	diff -r --exclude=__init__.py --exclude=__pycache__ "$$fresh/caa/proto" caa/proto || \
	{ echo "caa/proto is not what proto/ says: run make proto and commit the result" >&2; exit 1; }

manifests: $(VENV)/dev $(BIN)/kustomize ## Check the manifests in deploy/ (needs Go, to build kustomize)
	@$(BIN)/python -m pytest --quiet tests/deploy

$(BIN)/kustomize: | $(VENV)/bin/python
	@echo "Building kustomize (once) …"
	@GOBIN="$(abspath $(BIN))" go install sigs.k8s.io/kustomize/kustomize/v5@v5.8.1

image-proof podvm-proof: %-proof: $(VENV)/dev iproute2 debootstrap
	@$(SUDO) $(BIN)/python -m pytest -p no:cacheprovider --capture=no deploy/proof/test_$*.py

image-proof: ## Follow the Dockerfile without a container engine, and run the daemon in what comes out (root)
podvm-proof: ## Make a pod VM image of a bare Debian, and boot it in namespaces (root)

bench: $(VENV)/dev iproute2 ## All benchmarks: tables here, JSON and pictures in bench/out
	@mkdir -p bench/out
	@for file in bench/*.py; do echo "== $$file"; $(SUDO) $(BIN)/python $$file || exit 1; done

clean: ## Remove the virtual environment and all that was built
	rm -rf $(VENV) build dist *.egg-info bench/out .mypy_cache .pytest_cache .ruff_cache .hypothesis

APT    := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get

# Tests and benchmarks compare with what ip and tc see; nothing else needs them.
iproute2:
	@command -v ip >/dev/null && command -v tc >/dev/null || \
	{ echo "Installing iproute2 …" && $(APT) update -qq && $(APT) install -y -qq iproute2 >/dev/null; }

debootstrap:
	@command -v debootstrap >/dev/null || \
	{ echo "Installing debootstrap …" && $(APT) update -qq && $(APT) install -y -qq debootstrap >/dev/null; }

# Debian and Ubuntu split venv from Python; what else is needed comes from PyPI.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "Python 3.11 or later is needed; name one with: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	{ echo "Installing python3-venv …" && $(APT) update -qq && $(APT) install -y -qq python3-venv >/dev/null; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/runtime: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing caa into $(VENV) (once, about half a minute) …"
	@$(PIP) --editable .
	@touch $@

$(VENV)/dev: $(VENV)/runtime
	@echo "Installing the development tools into $(VENV) (once) …"
	@$(PIP) --editable '.[dev]'
	@touch $@
