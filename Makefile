# The one interface: what people type and what CI calls. Everything below .venv is set up by itself.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
SCALE ?= smoke

.PHONY: help run test test-all test-gpu lint docs package versions bench bench-extensions bench-gpu kills reproduce clean

help: ## this list
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z%-]+):[^#]*## /  make \1\t/' | expand -t 26

run: $(READY) ## train a ResNet-8 on 8x8 digits, without any download of data
	$(BIN)/trainopt

test: $(READY) ## the tests, in a few minutes
	$(BIN)/pytest -n auto --dist worksteal -m "not slow"

test-all: $(READY) ## the slow tests as well, after `make test`: every page's commands, many stopping points
	$(BIN)/pytest -n auto --dist worksteal -m slow

test-gpu: $(READY) ## the tests that need a CUDA GPU; without one they are skipped
	$(BIN)/pytest -q -n 4 --dist worksteal -m gpu

lint: $(READY) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .mypy/trainopt && for room in conf data models optimizers runner; do ln -sfn ../../$$room .mypy/trainopt/$$room; done
	MYPYPATH=.mypy $(BIN)/mypy -p trainopt

docs: $(READY) ## the site, into docs/_build: guides, and the reference made from the YAMLs and docstrings
	$(BIN)/pip install --quiet --editable '.[docs]'
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build

package: $(READY) ## sdist and wheel, into dist/
	$(BIN)/pip install --quiet twine
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

versions: $(READY) ## the fast tests with Python 3.11 to 3.13, and with the lowest and newest dependencies
	$(BIN)/pip install --quiet uv
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python tests/versions.py

bench: $(READY) ## ratios against named peers and bounds
	cd tests/benchmarks && failed=0; for script in startup comparing pipeline persistency loop second_order last_layer features fisher checkpoint_distance many_devices cluster; do ../../$(BIN)/python $$script.py || failed=1; done; exit $$failed

bench-extensions: $(READY) ## when the extensions of EHNewton help: losses at equal cost
	cd tests/benchmarks && ../../$(BIN)/python extensions.py

bench-gpu: $(READY) ## ratios and bounds on a CUDA GPU, in 7 minutes, into build/gpu.json; nothing without one
	cd tests/benchmarks && $(abspath $(BIN))/python gpu.py --out ../../build/gpu.json

kills: $(READY) ## kill runs a thousand times at drawn moments; resumed, they must be the undisturbed ones bit for bit
	cd tests && ../$(BIN)/python -m faults.kills && ../$(BIN)/python -m faults.rank_kills

reproduce: $(READY) ## what is missing of all published studies, and their reports; SCALE=smoke (or small, paper)
	$(BIN)/trainopt reproduce all --scale $(SCALE)

reproduce-%: $(READY) ## the same of one, as in make reproduce-zorca2020 SCALE=small
	$(BIN)/trainopt reproduce $* --scale $(SCALE)

clean: ## remove the environment and everything that tools left
	rm -rf $(VENV) .mypy .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist docs/_build docs/reference *.egg-info

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@
