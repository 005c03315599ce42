# Every target works alone on a machine with Python >= 3.10, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test demo lint bench clean

# One environment for everything, made anew when what it is made from changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

demo: $(VENV)/.installed
	$(BIN)/bridge-pets demo --out demo

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.step_cost

clean:
	rm -rf $(VENV) build dist *.egg-info
