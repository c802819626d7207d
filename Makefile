# Every target sets up .venv first, so `make book` and `make test` are all that a fresh clone needs.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
# The gates start Python many times; without its bytecode caches each start would compile the libraries anew.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
UV = $(or $(shell command -v uv),.uv/bin/uv)
BIN := .venv/bin
STAMP := .venv/.installed
GATES := $(BIN)/python -m palimpsest.publish.gates

.PHONY: help env book test lab practice chapter quick claims bench drills study pdf archive clean lock

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

env: $(STAMP) ## set up .venv from requirements.lock (the only step that needs the network)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "[env] $(PYTHON) is not installed; Python 3.11, 3.12 or 3.13 is needed" >&2; exit 1; }
	@$(PYTHON) -I lib/palimpsest/commands/bootstrap.py

book: env ## execute the chapters and build the site into _build/html
	@$(GATES) execute
	@$(BIN)/palimpsest pages
	@$(GATES) site

test: env ## every gate and every test; FAST=1: the unit tests that are not slow
	@$(GATES) $(if $(FAST),unit --fast)

lab: env ## open JupyterLab, where the .py chapters open as notebooks
	@$(BIN)/jupytext-config --settings-file .venv/etc/jupyter/labconfig/default_setting_overrides.json set-default-viewer
	@$(BIN)/jupyter trust notebooks/*.ipynb > /dev/null # else Lab leaves out what draws in outputs
	@$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks # from here: the pairing is in this folder's jupytext.toml

practice: env ## write the chapters without the solutions of their exercises into _build/practice
	@$(BIN)/python -m palimpsest.publish.practice

chapter: env ## execute one chapter again, in place: make chapter CH=04
	@test -n "$(CH)" || { echo "CH: name the chapter by its number, as in make chapter CH=04" >&2; exit 1; }
	@$(GATES) chapter $(CH)

quick: env ## compute the page In ten minutes, build the book as committed around it, then try every chapter at profile smoke
	@$(GATES) quick

claims: env ## print every claim with its verdict
	@$(BIN)/palimpsest claims

bench: env ## measure the kernels against their peers into data/bench
	@$(BIN)/palimpsest bench

drills: env ## try random inputs, kills and changed bytes, and record what came of them (an hour; can be stopped)
	@$(BIN)/python -m palimpsest.drills

study: env ## run what is still pending at profile study (hours; can be stopped and started again)
	@$(BIN)/palimpsest run --profile study --pending

pdf: env ## set the built site as one PDF, _build/palimpsest.pdf (needs the extra pdf)
	@$(BIN)/python -m palimpsest.publish.pdf

archive: env ## write one file with sources, results and site, for deposit
	@$(BIN)/python -m palimpsest.publish.archive

clean: ## remove everything that was built; .venv stays
	@rm -rf _build build dist .pytest_cache .ruff_cache .hypothesis lib/*.egg-info
	@find lib tests notebooks -name __pycache__ -prune -exec rm -rf {} +

lock: env ## resolve requirements.in into requirements.lock
	@$(UV) pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --upgrade requirements.in \
	  | sed -e 's/^\(torch==[0-9.]*\)+cpu/\1/' -e '/^\(nvidia\|cuda\)-/d' > requirements.lock.new
	@mv requirements.lock.new requirements.lock
