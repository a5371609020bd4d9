# make study [CONFIG=studies/x.yaml] [CORES=n]   from text to law, figures and report
# make law CONFIG=studies/h100.yaml              the same from the study's runs.csv on: nothing is trained
# make test                                      all tests
# make lint                                      formatting, lint and types of code and workflow
# Each first makes .venv from envs/requirements.lock if it is missing or older than the lock.

CONFIG ?= config.yaml
CORES ?= all
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: study law test lint

study law: $(VENV)/installed
	@sparsedc study check $(CONFIG) $(TABLE)
	@snakemake --cores $(CORES) --configfile $(CONFIG) $(FROM)
	@results=$$(sparsedc study results $(CONFIG)); report=$$results/report.html; \
	if [[ ! -e $$report || -n $$(find $$results/runs.csv $$results/law $$results/figures $$results/summary.html -newer $$report) ]]; then \
		snakemake --cores 1 --configfile $(CONFIG) $(FROM) --report $$report --quiet all; fi; \
	printf '\n'; printf '%-9s%s\n' report $$report law $$results/law/law.json figures $$results/figures/ runs $$results/runs.csv
law: FROM := --config from_table=true
law: TABLE = --runs $$(sparsedc study results $(CONFIG))/runs.csv

# One worker more than there are cores, as tests of Slurm mostly wait.
test: $(VENV)/installed
	pytest -n $$(($$(nproc) + 1)) --dist loadscope --no-loadscope-reorder

lint: $(VENV)/installed
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint --configfile config.yaml
	mypy

$(VENV)/installed: envs/requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sparsedc needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	pip install --quiet --requirement envs/requirements.lock
	pip install --quiet --no-deps --editable .
	touch $@
