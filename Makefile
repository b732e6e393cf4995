# make alpaca   install into .venv if needed, then the quick start
# make data     rebuild alpaca_data.json from the recorded answers of the teacher, and check it
# make test     install into .venv if needed, then the checks and the tests
# make test-all the same with the tests marked slow

PYTHON ?= python3
BIN := .venv/bin

.PHONY: alpaca data test test-all lint

data: .venv/installed-dev
	$(BIN)/python -m data.build alpaca_data
	$(BIN)/python -m data.check report

test: .venv/installed-dev lint
	$(BIN)/python -m pytest

test-all: .venv/installed-dev lint
	$(BIN)/python -m pytest -m "not gpu"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --requirement requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	@touch .venv/installed $@
