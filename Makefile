# make repro: from a clean clone to a report.   make test: the tests.   Both set up .venv by themselves.
.DEFAULT_GOAL := help
.PHONY: help setup setup-dev repro lint test test-slow clean

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
	@echo "make lint       ruff, mypy, import rules"
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
	@$(PIP) -e '.[dev,dist]'
	@touch $@

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

repro: setup
	@difftrack repro

lint: setup-dev
	ruff format --check .
	ruff check .
	mypy
	lint-imports

test: setup-dev
	OMP_NUM_THREADS=1 pytest -q -n logical --maxprocesses 4 --dist loadfile

test-slow: setup-dev
	pytest -q -m slow

clean:
	rm -rf $(VENV) data/clips data/tracks data/descriptors data/matches data/survey data/scores data/predictions \
	  data/samples data/report data/presets
