# The whole developer interface. `make help` lists it; CI calls `make lint type test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
RECIPE ?= examples/digits
TARGET ?= host
OUT ?= out
SET ?=
# Where pip finds torch, e.g. the CPU wheels of pytorch.org; empty: pip's own configuration.
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.edgepress-setup
EDGEPRESS := $(BIN)/edgepress
SOURCES := pipeline targets calibration tests examples benchmarks
OVERRIDES := $(foreach item,$(SET),--set $(item))
STAGES := prune distill export calibrate quantize build benchmark bundle

export ORT_DISABLE_TELEMETRY := 1

.PHONY: help setup run test test-long test-gpu test-devices lint type format bench $(STAGES) report targets clean

help: ## list the targets
	@grep -hE '^[a-zA-Z$$(). -]+:.*## ' $(MAKEFILE_LIST) | sed -e 's/\$$(STAGES)/$(STAGES)/' -e 's/: .*## /:  /'
	@echo 'Variables: RECIPE=$(RECIPE) TARGET=$(TARGET) OUT=$(OUT) SET="key=value ..." PYTHON=$(PYTHON) TORCH_INDEX=$(TORCH_INDEX)'

setup: $(STAMP) ## make .venv with everything that is tested (later calls do nothing)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'error: $(PYTHON) is older than 3.11; give another one: make PYTHON=python3.12 ...' >&2; exit 5; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,examples]'
	@touch $@

run: setup ## run RECIPE on TARGET to a verified bundle and an HTML report
	$(EDGEPRESS) run $(RECIPE) --target $(TARGET) --out $(OUT) $(OVERRIDES)

$(STAGES): setup ## run RECIPE up to that stage, files in OUT/stages
	$(EDGEPRESS) $@ $(RECIPE) --target $(TARGET) --out $(OUT)/stages $(OVERRIDES)

report: setup ## show what RECIPE did on TARGET
	$(EDGEPRESS) report $(RECIPE) --target $(TARGET) --out $(OUT) $(OVERRIDES)

targets: setup ## list the hardware profiles
	$(EDGEPRESS) targets list

test: setup ## the whole test suite, under 10 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not long and not gpu and not devices'

test-long: setup ## the sweeps
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -m long --timeout 3600

test-gpu: setup ## build, run and measure on an NVIDIA GPU; skips loudly where there is none
	$(BIN)/python -m pytest -m gpu --timeout 1800

test-devices: setup ## sshd, adb, arm64 and x86-64 without VNNI, from Debian packages and PyPI, in .devices
	tests/devices/setup.sh
	$(BIN)/python -m pytest -m devices --timeout 900

lint: setup ## ruff, rules and format
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

type: setup ## mypy, strict
	$(BIN)/mypy

format: setup ## let ruff mend what it can
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: setup ## the figures of README.md, measured here
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/reproducibility.py
	$(BIN)/python benchmarks/cold_run.py
	$(BIN)/python benchmarks/ondevice_overhead.py
	$(BIN)/python benchmarks/noise_floor.py

clean: ## remove .venv, results and caches of tools
	rm -rf $(VENV) $(OUT) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
