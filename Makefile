# Two commands do everything on a fresh machine with Python 3.10-3.13: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready

.PHONY: demo test format test-slow test-gpu test-browser fuzz bench model lint clean

demo: model
	$(BIN)/python examples/tour.py

test: model lint
	$(BIN)/python -m pytest -m "not slow and not gpu"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	mkdir -p $(VENV)/typed && ln -sfn $(CURDIR) $(VENV)/typed/sgl
	MYPYPATH=$(VENV)/typed $(BIN)/mypy -p sgl.lang -p sgl.interpreter -p sgl.backend -m sgl.cli

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-slow: model
	$(BIN)/python -m pytest -m slow

test-gpu: model
	$(BIN)/python -m pytest -m gpu

# The trace page in a real headless Chromium (skipped where there is none).
test-browser: $(READY)
	$(BIN)/python -m pytest -m browser

# Random hostile constraints for the grammar engines, in a child process; minutes.
fuzz: $(READY)
	$(BIN)/python tests/fuzz_grammars.py

bench: model
	$(BIN)/python benchmarks/programs.py

model: $(READY)
	$(BIN)/sgl models pull smollm2-135m

# The tested set of versions is pinned in constraints.txt.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
