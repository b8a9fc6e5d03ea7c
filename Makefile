# Two commands set everything up: `make demo` runs the whole pipeline, `make test` lints and runs the fast tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Bytecode is compiled when a module is first imported: most of what is installed never is.
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
JOBS ?= auto
DEMO := .demo
COPE := COPE_CACHE=$(DEMO)/cache COPE_RUNS=$(DEMO)/runs $(BIN)/cope

FUZZ_NUM ?= 1000
KILLS ?= 260
TINY ?= .tiny

.PHONY: install install-dev demo tiny test test-all test-versions test-wheel fuzz kill-sweep lint format docs clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[models]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

# Ten steps show that training runs; the answer is that of the bundled model, which is trained.
demo: install
	$(COPE) encode sample_videos
	$(COPE) extract --fusion 30 --grid 112 --frame-size 112 --store-frames all
	$(COPE) cache verify
	rm -rf $(DEMO)/runs
	$(COPE) train pretrain --grid 112 --steps 10
	$(COPE) train finetune --grid 112 --keyframes 1 --steps 10 --batch-size 6 --data sample_videos/captions.json
	$(COPE) ask sample_videos/tiny_right_then_down.mp4 "What happened?" --model cope-tiny
	$(COPE) bench --tokens

tiny: install
	$(BIN)/python -m recipes.cope_tiny.make --out $(TINY)

test: install-dev lint
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-all: install-dev lint
	$(BIN)/python -m pytest -n $(JOBS)

# The data stages need no torch: their tests run wherever these interpreters are.
PYTHONS ?= python3.12 python3.13
DATA_TESTS := tests/codec tests/cache tests/stages
test-versions:
	@for python in $(PYTHONS); do \
		if ! $$python --version >/dev/null 2>&1; then echo "$$python: not installed, skipped"; continue; fi; \
		$$python -m venv .venv-$$python && .venv-$$python/bin/python -m pip install --quiet --constraint constraints.txt \
			--editable . pytest pytest-xdist hypothesis && \
		.venv-$$python/bin/python -m pytest -n $(JOBS) -m "not slow" $(DATA_TESTS) || exit 1; \
	done

# The built wheel alone, in a fresh environment: renders a clip and answers a question about it.
test-wheel:
	rm -rf .wheel && mkdir .wheel
	$(PYTHON) -m venv .wheel/venv
	.wheel/venv/bin/python -m pip wheel --quiet --no-deps --wheel-dir .wheel .
	.wheel/venv/bin/python -m pip install --quiet --constraint constraints.txt "$$(ls .wheel/*.whl)[models]"
	cd .wheel && venv/bin/cope scenes --out clips && \
		venv/bin/cope ask clips/tiny_right_then_down.mp4 "what happened?" --model cope-tiny

fuzz: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python tools/fuzz.py sample_videos --out .fuzz --num $(FUZZ_NUM)

kill-sweep: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python tools/kill_sweep.py sample_videos/camera_pan.mp4 sample_videos/hard_cut.mp4 \
		--out .kill_sweep --num $(KILLS)

lint: install-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/cog --check docs/commands.md docs/cope-tiny.md docs/ablations.md

format: install-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: install-dev
	$(BIN)/cog -r docs/commands.md docs/cope-tiny.md docs/ablations.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

clean:
	rm -rf $(VENV) .venv-* .wheel $(DEMO) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz .kill_sweep
	find cope_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
