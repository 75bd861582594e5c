# Two commands for a fresh machine: `make train` and `make test`. They need Python 3.11 or later and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test test-extras release-check install clean
train: $(VENV)/.installed
	$(BIN)/hornbook train

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform win32
	$(BIN)/mypy --platform darwin
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not gpu" --ignore tests/extras

# Real browsers and clients; the browser is Debian's chromium (apt-get install chromium).
test-extras: $(VENV)/.installed-extras
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/extras tests/records/test_mirrors.py

install: $(VENV)/.installed

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[sample]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,sample,gpt2,parquet,gguf,documents]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-extras: pyproject.toml constraints.txt | $(VENV)/.installed-dev
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,extras,tensorboard,wandb]'
	touch $@

# Builds wheel and sdist, and runs the two jobs from the wheel in an environment of its own. Nothing is uploaded.
release-check: $(VENV)/.installed-dev
	rm -rf dist build/release && mkdir -p build/release
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/pip install --quiet -c constraints.txt hatchling && $(BIN)/python -m hatchling build -t sdist
	$(PYTHON) -m venv build/release/venv
	build/release/venv/bin/pip install --quiet -c constraints.txt "$$(ls dist/*.whl)[dev,sample,gpt2,parquet,gguf,documents]"
	cd build/release && tar xzf ../../dist/*.tar.gz && venv/bin/hornbook train --steps 20 --out run && venv/bin/hornbook evaluate run
	cd build/release && venv/bin/hornbook train --recipe by-heart hornbook-*/LICENSE --steps 20 --out by-heart
	cd build/release/hornbook-* && rm -r src && OMP_NUM_THREADS=1 ../venv/bin/python -m pytest -q -n 2 -m "not slow and not gpu" \
		tests/end_to_end tests/training tests/evaluation tests/test_recipes.py

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache
