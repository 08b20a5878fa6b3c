# The verbs that a person and CI use. Everything is installed into .venv from hash-pinned locks.
# The system's Python is built with a profile, and one of pyenv is not unless told, which needs more CPU (bench/README.md).
PYTHON ?= $(shell \
	if ! python3 -c 'import sysconfig as s, sys; sys.exit("--enable-optimizations" not in str(s.get_config_var("CONFIG_ARGS")))' && \
	/usr/bin/python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))'; \
	then echo /usr/bin/python3; else echo python3; fi 2>/dev/null)
# Processes that run the tests, one for each core.
JOBS ?= 2
VENV := .venv
BIN := $(VENV)/bin
MINUTES := 5
SECONDS ?= 120
RATE := 200
RUNS ?= 1
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--no-annotate --no-emit-package quillgate-proto
PEER_LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	--no-annotate

.PHONY: run test check proto snapshot bench bench-memory bench-peers bench-parts guard-figures chaos outage rolling lock \
	clean

run: $(VENV)/run.stamp  ## Start everything on loopback; prints the base URL, a fresh key and a curl line.
	@$(BIN)/quillgate serve --new-key

test: $(VENV)/dev.stamp  ## Run the tests.
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: $(VENV)/dev.stamp  ## Lint, types, layers and the contract's compatibility.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	sh proto/breaking.sh $(BIN)/buf

proto: .venv-proto/stamp  ## Generate the stubs from the contract.
	rm -rf proto/gen
	.venv-proto/bin/python proto/generate.py proto/gen

snapshot: .venv-snapshot/stamp  ## Build the bundled models from the libraries that core/snapshot.lock pins.
	.venv-snapshot/bin/python core/build_snapshot.py

bench: $(VENV)/dev.stamp  ## Measure every promise of speed, RUNS times, and print one table with the targets.
	@$(BIN)/python bench/table.py --runs $(RUNS) $(ONLY:%=--only %)

bench-memory: $(VENV)/dev.stamp  ## Measure memory over 200,000 requests of which 30 % hang up; some minutes.
	@$(BIN)/python bench/table.py --only memory

bench-peers: $(VENV)/dev.stamp  ## Install LiteLLM, Portkey and TensorZero from their packages and measure them beside ours.
	@$(BIN)/python bench/peers.py $(ONLY:%=--only %)

bench-parts: $(VENV)/dev.stamp  ## Measure the codec, the ledger, its export, and what clients notice of ailing upstreams.
	$(BIN)/python bench/codec.py
	$(BIN)/python bench/ledger.py
	$(BIN)/python bench/export.py
	$(BIN)/python bench/upstreams.py

guard-figures: $(VENV)/dev.stamp  ## Keep the work that a request does now as the figures that the tests compare with.
	$(BIN)/python bench/guard --renew

chaos: $(VENV)/dev.stamp  ## Kill and restart everything under load for MINUTES, then check the books request by request.
	@PYTHONPATH=tests GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m faults.chaos --minutes $(MINUTES) $(SEED:%=--seed %)

rolling: $(VENV)/dev.stamp  ## Replace every core and facade in turn under RATE requests a second; nobody may notice.
	@PYTHONPATH=tests GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m faults.rolling --rate $(RATE)

outage: $(VENV)/dev.stamp  ## Take the database away for SECONDS under load, kill a core meanwhile, then check the books.
	@PYTHONPATH=tests GRPC_ENABLE_FORK_SUPPORT=0 $(BIN)/python -m faults.outage --seconds $(SECONDS)

lock:  ## Resolve the dependencies anew (needs uv).
	$(LOCK) pyproject.toml --extra embedded --extra speech --group build --output-file requirements.lock
	$(LOCK) pyproject.toml --extra embedded --extra speech --group build --group dev --output-file requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate proto/generate.in --output-file proto/generate.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--no-annotate --no-deps core/snapshot.in --output-file core/snapshot.lock
	for peer in litellm tensorzero; do $(PEER_LOCK) bench/peers/$$peer.in --output-file bench/peers/$$peer.lock; done

clean:  ## Remove the environments, not the data.
	rm -rf .venv .venv-proto .venv-proto-* .venv-snapshot

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: requirements.lock pyproject.toml proto/pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --no-build-isolation -e ./proto -e .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/run.stamp
	$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

.venv-proto/stamp: proto/generate.lock
	$(PYTHON) proto/locked_environment.py proto/generate.lock .venv-proto
	@touch $@

.venv-snapshot/stamp: core/snapshot.lock
	$(PYTHON) proto/locked_environment.py core/snapshot.lock .venv-snapshot
	@touch $@
