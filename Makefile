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

# A process a core and one thread in each; the tests of a file stay together, for what they share.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist loadfile

demo: $(VENV)/.installed
	$(BIN)/bridge-pets demo --out demo

# Timings of the kernels here; with MODEL=folder-or-name also what the cost adds to a training step.
bench: $(VENV)/.bench
	$(BIN)/pytest benchmarks/ --out auto
	$(if $(MODEL),$(BIN)/python -m benchmarks.step_cost --model $(MODEL))
	$(BIN)/python -m benchmarks.readme

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
