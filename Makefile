# make repro: from a clean clone to a report.   make test: the tests.   Both set up .venv by themselves.
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev repro lint docs notebooks dist test test-slow test-all test-long results clean

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
# Modules are compiled when they are first imported, not one after the other by pip; every stage would do it again otherwise.
export PYTHONDONTWRITEBYTECODE :=

help:
	@echo "make repro      set up, run the pipeline, print where the report is"
	@echo "make test       set up, run the tests"
	@echo "make test-slow  fault loops and whole-pipeline runs"
	@echo "make test-all   both, on the same workers"
	@echo "make test-long  further variants of the slow tests"
	@echo "make lint       ruff, mypy, import rules"
	@echo "make docs       build the documentation site: docs/_build/html/index.html"
	@echo "make notebooks  run the notebooks of examples/ and keep their outputs"
	@echo "make dist       build sdist and wheel, check them, list what is in them"
	@echo "make results    measure everything that depends on the shipped weights again: hours, see CONTRIBUTING.md"
	@echo "make clean      remove .venv and what the pipeline and presets wrote under data"

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "DiffTrack needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (a minute or two)"
	@$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "installing what the tests need"
	@$(PIP) -e '.[dev,dist,docs]'
	@touch $@

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

repro: setup
	@difftrack repro

lint: setup-dev
	ruff format --check .
	ruff check .
	mypy
	mypy examples/first_look.py
	lint-imports

docs: setup-dev
	python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "docs: docs/_build/html/index.html"

$(VENV)/.installed-release: $(VENV)/.installed-dev
	@$(PIP) -e '.[release]'
	@touch $@

notebooks: $(VENV)/.installed-release
	python -m benchmarks.notebooks

dist: $(VENV)/.installed-release
	rm -rf dist
	python -m build --no-isolation --outdir dist .
	python -m twine check --strict dist/*
	@python -m zipfile -l dist/*.whl | awk 'NR > 1 {print $$1}' | cut -d/ -f1-2 | sort | uniq -c
	@tar tzf dist/*.tar.gz | cut -d/ -f2-3 | sort | uniq -c

# A process per core, each with a file at a time, in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 pytest -q -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: setup-dev
	$(PYTEST)

test-slow: setup-dev
	$(PYTEST) -m 'slow and not long'

test-all: setup-dev
	$(PYTEST) -m 'not gpu and not long'

test-long: setup-dev
	$(PYTEST) -m long

# Each on one core, the longest first, so that `make -j2 results` keeps two busy; the store's rates alone, at the end.
MEASURED := backbone tracking tuning propagation causes shapes guidance motion prompts words samples probe
.PHONY: $(MEASURED:%=results-%) results-real
$(MEASURED:%=results-%): export OMP_NUM_THREADS := 1
$(MEASURED:%=results-%): export PYTHONPATH := $(CURDIR)

results: setup-dev results-real
	@$(MAKE) $(MEASURED:%=results-%)
	python -m benchmarks.store
	python -m benchmarks.store data/descriptors/cogvideox-mini/analysis
	python -m benchmarks.tables

results-real:
	@test -f "$(TAPVID)" || { echo "name a TAP-Vid pickle of real video: make $(MAKECMDGOALS) TAPVID=tapvid_badja.pkl"; exit 1; }

results-backbone: setup-dev
	python -m benchmarks.backbone --clips 64 --steps 0 19 34

results-tracking: setup-dev results-real
	python -m benchmarks.tracking study --tapvid "$(TAPVID)"
	python -m benchmarks.tracking study --tapvid "$(TAPVID)" --clips 0 --size 256x384

results-tuning: setup-dev
	python -m benchmarks.tracking tune

results-shapes: setup-dev
	python -m benchmarks.shapes --sets 2 --clips 18

results-guidance: setup-dev repro
	python -m benchmarks.guidance study --prompts benchmarks/guidance_prompts.txt --num-prompts 10 --steps 15 --scale 0.2 \
	  --num-layers 2 --best-layers data/scores/cogvideox-mini/best_layers.json

# A run that was stopped goes on with the cells that data/ablation lacks.
results-causes: setup-dev
	python -m benchmarks.causes

# By hand, on a GPU.
.PHONY: results-causes-whole
results-causes-whole: export PYTHONPATH := $(CURDIR)
results-causes-whole: setup-dev
	python -m benchmarks.causes --whole

results-probe: setup-dev
	python -m benchmarks.probe

results-motion: setup-dev
	python -m benchmarks.motion --sets 6 --steps 20

results-prompts: setup-dev
	python -m benchmarks.prompts --clips 16 --steps 0 5 10

results-words: setup-dev
	python -m benchmarks.words tune --clips 4
	python -m benchmarks.words study --clips 4

# The setting is chosen on rendered clips; the table of real ones wants DAVIS 2016.
results-propagation: setup-dev
	python -m benchmarks.propagation tune
	@if test -d "$(DAVIS)/JPEGImages"; then \
	  python -m benchmarks.propagation study --davis "$(DAVIS)" --frames 17 --layers 0 3 4 6; \
	else echo "the table of DAVIS 2016 stays as it was; to measure it: make $@ DAVIS=folder"; fi

results-samples: setup-dev
	cd data/backbones/cogvideox-mini && python samples.py --steps 30 && python curves.py

clean:
	rm -rf $(VENV) data/clips data/tracks data/descriptors data/matches data/survey data/scores data/predictions \
	  data/samples data/report data/sweeps data/kept data/presets
