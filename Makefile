# `make help` lists the targets. Settings: CORES=4 make reproduce; PYTHON=python3.12 make install.
CORES ?= 2
BIN := .venv/bin
# compiled once into .venv, not again in every process of the workflow and of the tests
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install reproduce figures test test-fast test-browser test-cluster test-faults bench lint format lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "make %-12s %s\n", $$1, $$2 }'

install: ## make .venv with the exact versions of requirements.lock
	@.ci/install

reproduce: install ## run whatever is missing of the workbook, then print where the figures and the report are
	@$(BIN)/hardlab reproduce --cores $(CORES)

figures: install ## draw the figures again from figures/data
	@$(BIN)/hardlab figures --all

test: install ## run all tests that this machine can run, CORES of them at a time
	@$(BIN)/python -m pytest --numprocesses $(CORES) --dist worksteal

test-fast: install ## run the tests that take seconds, CORES of them at a time
	@$(BIN)/python -m pytest -m "not slow" --numprocesses $(CORES) --dist worksteal

test-browser: install ## open notebooks, explorer and report in JupyterLab and the Chromium that is installed
	@$(BIN)/python -m pytest -m browser

test-cluster: install ## run the workbook as jobs of a one-node Slurm that it starts, as root, where Slurm is installed
	@$(BIN)/python -m pytest -m cluster

test-faults: install ## run the tests of the fault table at full length (hours), with counts; the soak: tests/faults/soak.py
	@HARDLAB_FAULTS=long $(BIN)/python -m pytest --timeout 3600 $$($(BIN)/python tests/faults/rows.py)
	@$(BIN)/python tests/faults/soak.py 60

bench: install ## measure against the peers on this machine
	@$(BIN)/python -m benchmarks

lint: install ## check style, format and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: install ## format the code
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

lock: install ## resolve requirements.lock anew from pyproject.toml; `make lock UPGRADE=torch` moves one package, `UPGRADE=all` all
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes --no-emit-index-url \
		--no-header $(if $(UPGRADE),$(if $(filter all,$(UPGRADE)),--upgrade,--upgrade-package $(UPGRADE))) \
		pyproject.toml --output-file requirements.lock

clean: ## remove .venv, caches and the workbook's output; runs/ stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .snakemake out dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
