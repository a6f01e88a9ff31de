# Two commands do everything on a fresh machine with Python 3.10-3.13: `make demo` and `make test`.
# TORCH=cpu takes a torch without CUDA, through uv: `make demo TORCH=cpu`. Else pip takes what the package index has.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
READY   = $(VENV)/.ready
# Tests run on this many processes (without pytest-xdist: on one); each takes about 1.5 GB.
WORKERS     ?= 2
GPU_WORKERS ?= 4
# The Python of the tests on a GPU. A machine that has torch, triton, transformers, pytest and hypothesis, but no
# package registry: GPU_PYTHON=python3, and PYTHONPATH names a folder with wheels of the library's other dependencies.
GPU_PYTHON  ?= $(BIN)/python
with_workers = $(shell $(1) -c "import xdist; print('-n $(2) --dist $(3)')" 2>/dev/null)
# All tests of a file run in one process: they share models, and texts of the oracle. A process that its watchdog ends is not
# replaced: pytest-xdist would give the whole file to the next process, several times.
BY_FILE = loadfile --no-loadscope-reorder --max-worker-restart 0

# The tests of kernels run in Triton's interpreter in `make test`, and once more in `make test-gpu`.
KERNEL_TESTS = $(addprefix tests/backend/,$(addsuffix .py,model/test_kernels model/test_matmul \
	model/test_transformers_device attention/test_tree_attention sample/test_device_sampler cuda/test_device_executor))

.PHONY: install docs demo test test-clients test-docs test-native test-neon format test-slow test-gpu test-browser fuzz bench bench-cpu bench-gpu model lint clean

PIP       = $(BIN)/python -m pip install --quiet --disable-pip-version-check
ifeq ($(TORCH),)
INSTALL   = $(PIP)
else
INSTALL   = $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=$(TORCH)
endif

install: $(READY)

demo: model
	$(BIN)/python examples/tour.py

test: model lint
	$(BIN)/python -m pytest -m "not slow and not gpu and not clients" $(call with_workers,$(BIN)/python,$(WORKERS),$(BY_FILE))

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	mkdir -p $(VENV)/typed && ln -sfn $(CURDIR) $(VENV)/typed/sgl
	MYPYPATH=$(VENV)/typed $(BIN)/mypy -p sgl.lang -p sgl.interpreter -p sgl.backend -m sgl.cli

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The examples of docstrings and documents, on the toy model; seconds.
test-docs: $(READY)
	$(BIN)/python -m pytest tests/test_docs.py tests/test_readme.py -m "not model"

test-slow: model
	$(BIN)/python -m pytest -m slow $(call with_workers,$(BIN)/python,$(WORKERS),$(BY_FILE))

# The CPU's kernels with the sanitizers of addresses and of undefined behaviour, at each level of this machine; minutes.
SANITIZED = build/sanitized/kernels.shared
SANITIZED_PYTHON = LD_PRELOAD="$(shell $(CXX) -print-file-name=libasan.so) $(shell $(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 SGL_CPU_LIBRARY=$(CURDIR)/$(SANITIZED) $(BIN)/python
$(SANITIZED): $(wildcard backend/runtime/model/cpu/native/*)
	mkdir -p $(dir $@)
	$(CXX) -std=c++17 -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	-ffp-contract=off -fno-math-errno -pthread -fPIC -shared $(wildcard backend/runtime/model/cpu/native/*.cpp) -o $@

test-native: $(READY) $(SANITIZED)
	for level in $$($(BIN)/python -c "from sgl.backend.runtime.model.cpu import native as n; \
	print(*(name for i, name in enumerate(n.LEVELS) if n.library().sgl_has_level(i)))"); do \
	SGL_CPU_LEVEL=$$level $(SANITIZED_PYTHON) -m pytest -q -s tests/backend/model/cpu tests/backend/sample/test_host_sampler.py || exit 1; done

# The kernels for aarch64, compiled on another machine and run in an emulator: each level beside the portable one, in half a
# minute. Debian has both in g++-aarch64-linux-gnu and qemu-user. On an aarch64 machine: NEON_CXX=c++ NEON_RUN= make test-neon
NEON_CXX ?= aarch64-linux-gnu-g++
NEON_RUN ?= qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu
build/levels-neon: tests/backend/model/cpu/levels.cpp $(wildcard backend/runtime/model/cpu/native/*)
	mkdir -p $(dir $@)
	$(NEON_CXX) -std=c++17 -O2 -ffp-contract=off -fno-math-errno -pthread -I backend/runtime/model/cpu/native $< -o $@

test-neon: build/levels-neon
	$(NEON_RUN) ./$< neon

test-gpu: $(if $(filter $(BIN)/python,$(GPU_PYTHON)),model)
	$(GPU_PYTHON) -m pytest -m gpu $(addprefix tests/backend/,model attention cuda) $(call with_workers,$(GPU_PYTHON),$(GPU_WORKERS),worksteal)
	$(GPU_PYTHON) -m pytest $(KERNEL_TESTS) $(call with_workers,$(GPU_PYTHON),$(GPU_WORKERS),worksteal)

# The trace page in a real headless Chromium (skipped where there is none).
test-browser: $(READY)
	$(BIN)/python -m pytest -m browser

# Clients of other people against the server, in environments of their own under build/; minutes. JavaScript's need node.
CLIENTS = langchain-openai langchain-anthropic litellm instructor "pydantic-ai-slim[openai]"
build/clients/.ready:
	$(PYTHON) -m venv build/clients
	build/clients/bin/python -m pip install --quiet --disable-pip-version-check $(CLIENTS)
	mkdir -p build/clients-node && echo '{"private": true}' > build/clients-node/package.json
	-cd build/clients-node && npm install --silent --no-fund --no-audit openai @openai/codex @anthropic-ai/claude-code opencode-ai
	touch $@

test-clients: model build/clients/.ready
	$(BIN)/python -m pytest -m clients tests/clients

# Random hostile constraints for the grammar engines, in a child process; minutes.
fuzz: $(READY)
	$(BIN)/python tests/fuzz_grammars.py
	$(BIN)/python tests/fuzz_ebnf.py
	$(BIN)/python tests/fuzz_closing.py

bench: model
	$(BIN)/python benchmarks/programs.py

# On a CPU, beside llama.cpp and others: benchmarks/results/cpu.md. The first time the peers' environments are made, and
# llama.cpp is compiled (minutes). A run that was interrupted goes on; ARGS=--again measures everything anew.
bench-cpu: model
	$(BIN)/python benchmarks/cpu/environments.py
	$(BIN)/python benchmarks/cpu/main.py $(ARGS)

# On a GPU: the programs, raw batches and ablations of benchmarks/results/gpu.md (minutes). TOKENIZER: Qwen3's tokenizer.json.
bench-gpu: $(READY)
	for shape in 8b 0.6b; do for what in programs raw; do \
	$(BIN)/python benchmarks/gpu/$$what.py --shape $$shape $(if $(TOKENIZER),--tokenizer $(TOKENIZER)); done; done
	$(BIN)/python benchmarks/gpu/ablations.py --shape 0.6b $(if $(TOKENIZER),--tokenizer $(TOKENIZER)) --skip "attention: torch"

# The documentation as a site in site/. It asks no other host for anything; tests/test_docs.py checks that.
docs: $(READY)
	$(INSTALL) -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python -m pytest tests/test_docs.py -k site

model: $(READY)
	$(BIN)/sgl models pull smollm2-135m

# The tested set of versions is pinned in constraints.txt.
# The kernels are built by the installation.
$(READY): pyproject.toml constraints.txt setup.py $(wildcard backend/runtime/model/cpu/native/*)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt -e ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
