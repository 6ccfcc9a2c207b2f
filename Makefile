# make demo and make test do everything on a fresh machine; make check is the whole gate.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 0
RUN_DIR ?= runs/demo
BASE_BRANCH ?= main
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test check format lint types schema proto bench clean

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.ready  ## a policy made better by the whole mesh, on this machine
	rewardmesh demo --run-dir $(RUN_DIR) --seed $(SEED)

test: $(VENV)/.ready  ## all tests
	pytest

check: format lint types schema  ## the gate; tests marked slow are left to `make test`
	pytest -m "not slow"

format: $(VENV)/.ready
	ruff format --check .

lint: $(VENV)/.ready
	ruff check .
	yamllint --strict --config-file deploy/.yamllint deploy

types: $(VENV)/.ready
	mypy
	pyright

schema: $(VENV)/.ready  ## the protos: style, compatibility with the base branch, fresh stubs
	buf lint
	buf format --diff --exit-code
	@if git rev-parse --verify --quiet $(BASE_BRANCH) >/dev/null; then \
		echo "buf breaking --against .git#branch=$(BASE_BRANCH)"; buf breaking --against '.git#branch=$(BASE_BRANCH)'; \
	else echo "buf breaking skipped: there is no branch $(BASE_BRANCH) here (set BASE_BRANCH)"; fi
	$(MAKE) --no-print-directory proto
	git diff --exit-code --stat -- protos/gen

proto: $(VENV)/.ready  ## generate protos/gen
	buf generate --template protos/buf.gen.yaml 2>/dev/null

bench: $(VENV)/.ready  ## figures into benchmarks/results
	python -m benchmarks.packed_forward

clean:
	rm -rf $(VENV) runs dist
