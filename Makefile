# Two commands for a fresh machine: `make train` and `make test`. They need Python 3.11 or later and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: train test test-extras check install clean
train: $(VENV)/.installed
	$(BIN)/hornbook train

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 -m "not slow and not gpu"

# Real browsers and clients; the browser is Debian's chromium (apt-get install chromium).
test-extras: $(VENV)/.installed-extras
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/extras

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

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
