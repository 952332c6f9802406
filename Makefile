# Everything starts from a fresh clone: `make quickstart` or `make test`, in any order.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SBI_VENV := .venv-sbi
SBI_INSTALLED := $(SBI_VENV)/.installed
BAYESFLOW_VENV := .venv-bayesflow
BAYESFLOW_INSTALLED := $(BAYESFLOW_VENV)/.installed
RAY_VENV := .venv-ray
RAY_INSTALLED := $(RAY_VENV)/.installed

SCALE ?= laptop
SEEDS ?=
OUTPUT ?= outputs
FIGURES := $(filter-out figures,$(patsubst scripts/%.py,%,$(shell grep -l FigureScript scripts/*.py)))

.PHONY: help install quickstart test test-slow test-faults test-sbi test-bayesflow test-browser
.PHONY: test-slurm test-ray lint format
.PHONY: figures overview gallery readme-figure clean $(FIGURES)

help:            ## show this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## create .venv with the tested versions of everything

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[sbibm,cores,pareto,dev]'
	touch $@

quickstart: install  ## install, then run the main job
	$(BIN)/robust-npe train

test: install    ## install, then run the tests (minutes)
	$(BIN)/pytest -n 2 -q

test-slow: install  ## the tests that train for minutes
	$(BIN)/pytest -q -m slow

test-faults: install  ## 250 processes killed at random moments (minutes; the tests kill 14)
	$(BIN)/python -m tests.faults 200

test-sbi: $(SBI_INSTALLED)  ## the tests with a current sbi, which sbibm cannot live with
	$(SBI_VENV)/bin/pytest -q tests/sbi

$(SBI_INSTALLED): pyproject.toml constraints-sbi.txt
	test -x $(SBI_VENV)/bin/python || $(PYTHON) -m venv $(SBI_VENV)
	$(SBI_VENV)/bin/pip install --quiet --constraint constraints-sbi.txt --editable '.[sbi]' pytest
	touch $@

test-bayesflow: $(BAYESFLOW_INSTALLED)  ## the tests with bayesflow, which needs Python 3.12
	$(BAYESFLOW_VENV)/bin/pytest -q tests/bayesflow

$(BAYESFLOW_INSTALLED): pyproject.toml
	test -x $(BAYESFLOW_VENV)/bin/python || python3.12 -m venv $(BAYESFLOW_VENV)
	$(BAYESFLOW_VENV)/bin/pip install --quiet --editable '.[bayesflow]' pytest
	touch $@

test-browser: install  ## the page of an audit in Chromium (apt-get install chromium chromium-driver)
	$(BIN)/pytest -q tests/auditing/test_page.py -k 'browser or javascript' -rs

test-slurm: install  ## sweeps on Slurm; as root, after apt-get install slurm-wlm munge
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[slurm]'
	scripts/slurm_node.sh $(BIN)/pytest -q -rs tests/sweeps/test_slurm.py

test-ray: $(RAY_INSTALLED)  ## a sweep on a local Ray, whose launcher needs an old cloudpickle
	$(RAY_VENV)/bin/pytest -q -rs tests/sweeps/test_ray.py

$(RAY_INSTALLED): pyproject.toml
	test -x $(RAY_VENV)/bin/python || $(PYTHON) -m venv $(RAY_VENV)
	echo torch==2.13.0 | $(RAY_VENV)/bin/pip install --quiet --constraint /dev/stdin --editable '.[ray]' pytest
	touch $@

lint: install    ## linter, formatter, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install  ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: install  ## compute what is missing for all figures, and draw them: SCALE=smoke|laptop|paper
	$(BIN)/python scripts/figures.py --scale "$(SCALE)" $(if $(SEEDS),--seeds "$(SEEDS)") --output "$(OUTPUT)"

$(FIGURES): install  # one of them, such as `make figure4`
	$(BIN)/python scripts/figures.py $@ --scale "$(SCALE)" $(if $(SEEDS),--seeds "$(SEEDS)") --output "$(OUTPUT)"

gallery: install  ## draw docs/gallery again, from the tables committed there
	$(BIN)/python scripts/figures.py --tables docs/gallery/tables --output docs/gallery

overview: install  ## tolerance and coverage plots of all stored runs, whatever they are
	$(BIN)/python scripts/overview.py

readme-figure: install  ## train what the figure of the README shows, and draw it (minutes)
	$(BIN)/robust-npe train -m task=gaussian_linear,lotka_volterra,sir defense=none,fim output_dir=outputs/readme plots=false
	$(BIN)/python scripts/readme_figure.py outputs/readme docs/tolerance.png

clean:           ## remove environments and caches, never outputs/
	rm -rf $(VENV) $(SBI_VENV) $(BAYESFLOW_VENV) $(RAY_VENV) .pytest_cache .mypy_cache .ruff_cache build dist
