# Two commands set everything up: `make demo` runs the whole pipeline, `make test` lints and runs the fast tests.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
JOBS ?= auto
DEMO := .demo
COPE := COPE_CACHE=$(DEMO)/cache COPE_RUNS=$(DEMO)/runs $(BIN)/cope

FUZZ_NUM ?= 1000
KILLS ?= 260
TINY ?= .tiny

.PHONY: install install-dev demo tiny test test-all fuzz kill-sweep lint format docs clean

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[models]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) --editable '.[dev]'
	touch $@

demo: install
	$(COPE) encode sample_videos
	$(COPE) extract --fusion 30 --grid 112 --frame-size 112 --store-frames all
	$(COPE) cache verify
	rm -rf $(DEMO)/runs
	$(COPE) train pretrain --grid 112 --steps 40
	$(COPE) train finetune --grid 112 --keyframes 1 --steps 60 --batch-size 6 --data sample_videos/captions.json
	$(COPE) ask sample_videos/red_circle_right_then_left.mp4 "What happened?" --keyframes 1
	$(COPE) ask sample_videos/camera_pan.mp4 "What happened?" --keyframes 1
	$(COPE) bench --tokens

tiny: install
	$(BIN)/python -m recipes.cope_tiny.make --out $(TINY)

test: install-dev lint
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-all: install-dev lint
	$(BIN)/python -m pytest -n $(JOBS)

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
	rm -rf $(VENV) $(DEMO) build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .fuzz .kill_sweep
	find cope_cli tests -name __pycache__ -type d -prune -exec rm -rf {} +
