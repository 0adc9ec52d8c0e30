# Every target creates .venv from constraints.txt if it is missing or out of date; tests and checks
# add their own tools to it.
PYTHON ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
OLDEST_PYTHON ?= python3.11
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test newest oldest portable check figures ledger reference model bench format

help: ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

run: .venv/.ready ## the main job on its smoke scale: experiments, figures, ledger
	@$(BIN)/python -m experiments

test: .venv/.tested ## the fast tests (add ARGS=--slow for all)
	@$(BIN)/python -m pytest -n auto --dist loadfile $(ARGS)

newest: ## install the wheel with the newest versions of what it needs, on each Python there is
	@$(PYTHON) tests/installations.py newest $(PYTHONS)

oldest: ## the same with the lowest versions that pyproject.toml allows
	@$(PYTHON) tests/installations.py oldest $(OLDEST_PYTHON)

portable: .venv/.tested ## the same verdicts and documents as on other processors (ARGS=--quick: a part)
	@$(BIN)/python tests/portable.py $(ARGS)

check: .venv/.tested ## lint, format, types, who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

figures: .venv/.ready ## draw every figure from the committed references
	@$(BIN)/python -m figures

ledger: .venv/.ready ## regenerate paper_repro.md, docs/repro/ and the measured parts of the README
	@$(BIN)/python -m experiments.ledger

reference: .venv/.tested ## run the paper scale and replace experiments/reference/
	@$(BIN)/python -m experiments.rerun

model: .venv/.ready ## fetch a pretrained language model into models/ (SmolLM2-135M, 4-bit weights)
	@$(BIN)/python -m experiments get_model smollm2

bench: .venv/.tested ## speed against the plain ways, in one run
	@$(BIN)/python -m benchmarks

format: .venv/.tested ## format the code
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.venv/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "error: PYTHON must be at least 3.11, got %d.%d" % v[:2])'
	@echo "setting up .venv (about a minute)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[experiments]"
	@touch $@

.venv/.tested: .venv/.ready
	@echo "adding what tests and checks need"
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[test]"
	@touch $@
