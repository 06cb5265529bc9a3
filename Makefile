# What a contributor runs. Use the Python of your environment: `make PYTHON=python3.12 test`.
PYTHON ?= python
export OMP_NUM_THREADS ?= 1

.PHONY: help lint quick test docs bench

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

lint:  ## format, style, complexity, types
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

quick:  ## what fails most often, in under two minutes
	$(PYTHON) -m pytest -q tests/test_structure.py tests/test_walk.py tests/defenses/test_defense_contract.py \
		tests/bench/attacks/test_attack_contract.py tests/bench/test_cell.py tests/bench/test_evaluate.py tests/bench/report \
		tests/bench/commands/test_cli.py

test:  ## the whole suite
	$(PYTHON) -m pytest -n auto

docs:  ## everything that is generated: the catalogue of `bench list`, tables and curves of the documents
	$(PYTHON) -m bench.commands.catalog
	$(PYTHON) docs/refresh.py

bench:  ## speed and memory on this machine
	$(PYTHON) benchmarks/purifiers.py
	$(PYTHON) benchmarks/attacks.py
	$(PYTHON) benchmarks/adjoint.py
	$(PYTHON) benchmarks/noise.py
