# `make demo` and `make test` do everything on a fresh clone: environment, install, run.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := runs/demo
# The strongest rules of configs/evaluate.yaml, and the paper's.
OPPONENTS := [Learned,SaliencyThreshold,SaliencyTopR,CalibratedThreshold,TopR]

.PHONY: demo test slow lint format bench docs clean

$(VENV)/.installed: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/eventful-train configs/demo.yaml out=$(RUN)
	$(BIN)/eventful-evaluate configs/evaluate.yaml policy=$(RUN)/policy out=$(RUN)/evaluation max_clips=16 max_frames=40 \
		policies=$(OPPONENTS)
	$(BIN)/python -m envs.doom.export --split test_maps --out $(RUN)/clip.mp4
	$(BIN)/eventful-infer $(RUN)/clip.mp4 --policy $(RUN)/policy --budget 0.2 --out $(RUN)/annotated.mp4
	@echo
	@cat $(RUN)/evaluation/summary.md
	@echo
	@echo "table:           $(RUN)/evaluation/table.md"
	@echo "plot:            $(RUN)/evaluation/frontier.png"
	@echo "annotated clip:  $(RUN)/annotated.mp4"

# One thread per test process: the models in the tests are too small to share.
test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow"

slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed
	$(BIN)/eventful-benchmark configs/benchmark.yaml against=configs/benchmark_reference.json

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "site: site/index.html"

clean:
	rm -rf $(VENV) runs site build dist *.egg-info .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
