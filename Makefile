# SPDX-License-Identifier: Apache-2.0
# Everything sets itself up in .venv; a fresh machine needs python3 (3.10 or newer) with venv,
# a C++20 compiler and make. `make test` adds Debian packages (.ci/apt) where it may.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_EXTRAS := export,calibration,mcap,sim
SOURCES := pyproject.toml CMakeLists.txt csrc/CMakeLists.txt $(VENV)/.modules \
           $(shell find csrc \( -name '*.?pp' -o -name '*.cu*' \) -not -path '*/tests/*')

# An editable install knows the modules that were there when it was made: install again when the
# list of them changes.
MODULES := $(shell find jepa_edge export calibration ros -name '*.py' -o -name '*.msg' -o -name '*.srv' -o -name '*.action' | sort)
ifneq ($(MODULES),$(shell cat $(VENV)/.modules 2>/dev/null))
  $(shell mkdir -p $(VENV) && echo $(MODULES) > $(VENV)/.modules)
endif

CSRC = $(shell find csrc -name '*.?pp' -o -name '*.cu*' -o -path 'csrc/mcu/*.[ch]')

.PHONY: demo test bench safety lint format clean tools

demo: $(VENV)/.demo
	$(BIN)/python examples/pusht/demo.py --out runs/demo

test: $(VENV)/.dev tools
	$(BIN)/python -m pytest

# For the C++ tests: doctest, a compiler and an emulator for aarch64, and cuBLASLt's header.
tools: $(VENV)/.base
	.ci/apt
	.ci/cuda

# All of them take two hours; `make bench ONLY=session_step` runs one.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/run_all.py $(ONLY)

# The study of the flags on both example robots (benchmarks/safety/PROTOCOL.md): about 40 minutes.
safety: $(VENV)/.bench tools
	$(BIN)/python benchmarks/safety/study.py

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/lint && $(BIN)/pip install --quiet --no-deps --target build/lint .
	cd build/lint && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml
	$(BIN)/clang-format --dry-run --Werror $(CSRC)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CSRC)

clean:
	rm -rf $(VENV) build dist runs

$(VENV)/.base:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	touch $@

$(VENV)/.demo: $(VENV)/.base $(SOURCES)
	$(BIN)/pip install --quiet --editable '.[$(DEMO_EXTRAS)]'
	touch $@

# stable-worldmodel is the oracle of the LeWM tests. Its own dependencies (torchvision, lancedb, ...)
# are not needed for the two files that the tests load, and would bring a second torch.
$(VENV)/.dev: $(VENV)/.base $(SOURCES)
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps stable-worldmodel==0.1.1
	touch $@ $(VENV)/.demo

$(VENV)/.bench: $(VENV)/.dev
	$(BIN)/pip install --quiet --editable '.[bench]'
	touch $@
