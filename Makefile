# Everything sets itself up: `make run` and `make test` work in a fresh clone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: run test test-slow check bench owner clean

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hf_sft needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

run: $(READY)
	$(BIN)/accelerate launch --num_processes 1 -m hf_sft.run recipes/bert_sentiment.yaml

test: $(READY)
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

bench: $(READY)
	$(BIN)/python -m benchmarks.traps
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.inspection
	if [ -n "$$HF_SFT_REAL_DATA" ]; then $(BIN)/python -m benchmarks.frozen; fi

# Whose repository this is: in the links to Colab and in the commands that install from it.
owner:
	test -n '$(OWNER)' || { echo 'make owner OWNER=name'; exit 2; }
	perl -pi -e 's{(/github/)[\w-]+(/hf-sft/blob/)}{$${1}$(OWNER)$${2}}g; \
	  s{git\+(<URL[^>]*>|https://github\.com/[\w-]+/hf-sft)}{git+https://github.com/$(OWNER)/hf-sft}g' \
	  README.md notebooks/*.ipynb

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
