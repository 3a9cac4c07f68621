# Two commands on a fresh machine: `make demo` and `make test`. Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TASK ?= open_drawer
SEED ?= 0
ITERATIONS ?= 30

.PHONY: demo test bench gpu lint pretrained clean

$(VENV)/.installed: pyproject.toml
	@echo "== installing into $(VENV) (a few minutes the first time)"
	@sh tools/install.sh $(PYTHON) $(VENV)
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/robot-run demo --task $(TASK) --seed $(SEED) --iterations $(ITERATIONS)

test: lint
	sh tools/test.sh $(BIN)/python

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/robot-bench loop --rate-hz 30 --ticks 1200

gpu: $(VENV)/.installed
	$(BIN)/python -m benchmarks.gpu $(if $(NAME),--name $(NAME))

pretrained: $(VENV)/.installed
	$(BIN)/python -m benchmarks.pretrained

clean:
	rm -rf run report .pytest_cache .mypy_cache .ruff_cache
