PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test bars clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

# The main job on the embedded default: offline, under 5 minutes on 2 cores.
demo: setup
	$(BIN)/compress apply recipes/quickstart.yaml

# Set COMPRESS_ASSETS to a folder with real models and text, and the tests that need them run too.
test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m 'not slow'

# The measured bars, minutes each; they need COMPRESS_ASSETS.
bars: setup
	$(BIN)/python -m pytest -m slow -s

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
