# Every command of the project. `make help` lists them; each target's comment is its help.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA_DIR ?= .clave
export OMP_WAIT_POLICY := passive
.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test check format bench bench-inference bench-registry bench-gateway up down status logs lock clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(VENV)/.runtime: requirements.lock tools/install.sh
	@bash tools/install.sh runtime

$(VENV)/.dev: requirements.lock requirements-dev.lock tools/install.sh
	@bash tools/install.sh dev

install: $(VENV)/.runtime ## Create .venv with what clave needs to run
install-dev: $(VENV)/.dev ## Create .venv with what tests and checks need as well

demo: install ## The whole loop on real churn data: build, deploy, monitor, retrain
	@$(BIN)/clave demo churn $(ARGS)

test: install-dev ## All tests: unit, integration, contract, end to end
	@bash tools/test.sh $(ARGS)

check: install-dev ## Format, lint, types, import rules, dependencies, spelling
	@bash tools/check.sh

format: install-dev ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: bench-inference bench-registry bench-gateway ## Measure and write benchmarks/results

bench-inference: install-dev ## Inference beside its floor and other servers (needs wrk; ARGS="--rounds 3")
	@$(BIN)/python -m benchmarks.inference $(ARGS)

bench-gateway: install-dev ## Enforcement, decisions, limits, audit (ARGS="--opa PATH --entries 100000")
	@PYTHONPATH=tests $(BIN)/python -m benchmarks.gateway $(ARGS)

bench-registry: install-dev ## The registry beside a real MLflow server on one Postgres (ARGS="--groups search")
	@$(BIN)/python -m benchmarks.registry $(ARGS)

up: install ## Start the local stack in the background
	@$(BIN)/clave up --detach --data-dir $(DATA_DIR)

down: install ## Stop the local stack
	@$(BIN)/clave down --data-dir $(DATA_DIR)

status: install ## Show every process of the local stack
	@$(BIN)/clave status --data-dir $(DATA_DIR)

logs: install ## Show the stack's logs
	@$(BIN)/clave logs --data-dir $(DATA_DIR)

lock: ## Pin every dependency with its hashes
	@bash tools/lock.sh

clean: ## Remove .venv, caches and the local stack's data
	@if [ -x $(BIN)/clave ]; then $(BIN)/clave down --data-dir $(DATA_DIR) || true; fi
	rm -rf $(VENV) $(DATA_DIR) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
