# Bare `make` lists the targets; the sentence behind a target's ## is what it shows.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

VENV   := .venv
NEWEST := .venv-newest
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.setup-done

# What may be given on the command line: make run DATA_DIR=/srv/kv ARGS='--memtable-mb 8'; make test ARGS='-k recovery'
PYTHON       ?=
DATA_DIR     ?=
ARGS         ?=
JOBS         ?= 2
CRASH_ROUNDS ?= 10
export PYTHON

PYTEST := python -m pytest -n $(JOBS) --dist worksteal

.PHONY: bench-tables bench-big help setup run run-single demo test check fmt format-check lint types imports protos protos-check
.PHONY: test-cluster test-crash test-seeded test-newest bench lock clean

help: ## Lists the targets.
	@echo 'make TARGET [ARGS="..."], where TARGET is:'
	@sed -n -E 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  %-13s %s\n' "$$target" "$$text"; done

setup: $(STAMP) ## Makes the virtual environment .venv with the locked versions (PYTHON=... picks the interpreter).
	@echo '$(VENV) is ready; try: make run'

$(STAMP): pyproject.toml requirements.lock scripts/venv.sh
	@scripts/venv.sh locked $(VENV)
	@touch $@

run: $(STAMP) ## Serves on 127.0.0.1:7400, two followers on 7401 and 7402, data in DATA_DIR (data/cluster); Ctrl-C ends all.
	@exec $(BIN)/python scripts/cluster/run.py --data-dir '$(or $(DATA_DIR),data/cluster)' $(ARGS)

# Flags in ARGS come last, and the last one of a kind wins: ARGS="--archive off". Python makes the address of the archive: make would
# take a path with blanks for several, and an address spells some characters in another way.
run-single: $(STAMP) ## Serves one node on 127.0.0.1:7400, with data and archive in DATA_DIR (data/node); ARGS="--name n1" passes flags.
	@archive=$$($(BIN)/python -c 'import pathlib, sys; print((pathlib.Path(sys.argv[1]).resolve() / "archive").as_uri())' '$(or $(DATA_DIR),data/node)'); \
	exec $(BIN)/python -m kvserver serve --data-dir '$(or $(DATA_DIR),data/node)' --archive "$$archive" \
		--listen 127.0.0.1:7400 --http 127.0.0.1:7480 $(ARGS)

demo: $(STAMP) ## Shows a failover on three nodes of its own: load, kill -9, promote, write on, come back, compare (a minute).
	@$(BIN)/python scripts/cluster/demo.py $(ARGS)

test: $(STAMP) ## Runs the tests; ARGS="-k recovery" passes flags to pytest.
	@$(BIN)/$(PYTEST) $(ARGS)

check: format-check lint types imports protos-check test ## Runs everything that must hold before a commit: format, lint, types, floors, stubs, tests.

fmt: $(STAMP) ## Formats the code and mends what the linter can mend.
	@$(BIN)/ruff check --quiet --fix --exit-zero .
	@$(BIN)/ruff format .

format-check: $(STAMP) ## Says which files are not formatted; `make fmt` mends them.
	@$(BIN)/ruff format --check .

lint: $(STAMP) ## Runs the linter (ruff).
	@$(BIN)/ruff check --no-cache .

types: $(STAMP) ## Checks the types (mypy --strict).
	@$(BIN)/mypy --strict

imports: $(STAMP) ## Checks that no floor imports what stands above it (import-linter).
	@$(BIN)/lint-imports

protos: $(STAMP) ## Generates the stubs of protos/ anew.
	@$(BIN)/python scripts/protos.py

protos-check: $(STAMP) ## Checks that the stubs are what the .proto files say.
	@$(BIN)/python scripts/protos.py --check

test-crash: $(STAMP) ## Runs the long crash campaign (CRASH_ROUNDS=10: seeds of each kind; half an hour).
	@KVSERVER_CRASH_ROUNDS=$(CRASH_ROUNDS) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal tests/crash --timeout 0 $(ARGS)

test-cluster: $(STAMP) ## Runs whole clusters through kills at every step, bad input and a change of archive (4 minutes).
	@KVSERVER_CLUSTER_TESTS=all $(BIN)/$(PYTEST) tests/integration/test_cluster_kills.py tests/integration/test_cluster_bad_input.py \
		tests/integration/test_cluster_archive.py $(ARGS)

test-seeded: $(STAMP) ## Plants every seeded bug, one after the other, in copies of the source: a test must notice each (6 minutes).
	@KVSERVER_SEEDED_BUGS=all $(BIN)/$(PYTEST) tests/seeded_bugs $(ARGS)

# The stubs, the style and the packaging are matters of the locked environment; everything that runs is tested.
test-newest: ## Runs the tests with the newest grpcio and protobuf that are allowed, in .venv-newest.
	@scripts/venv.sh newest $(NEWEST)
	@$(NEWEST)/bin/python -c 'import grpc, google.protobuf as p; print("grpcio", grpc.__version__, "protobuf", p.__version__)'
	@$(NEWEST)/bin/$(PYTEST) --ignore tests/tidy --ignore tests/packaging $(ARGS)

bench: $(STAMP) ## Measures ourselves, etcd, Redis, RocksDB and the disk in one run (forty minutes; ARGS="--quick": a smoke).
	@$(BIN)/python scripts/bench/main.py $(ARGS)

bench-tables: $(STAMP) ## Measures what tables cost: puts beside flushes, reads after many, the start after a kill (3 minutes).
	@$(BIN)/python scripts/bench/tables.py $(ARGS)

bench-big: $(STAMP) ## Loads 10,000,000 keys while they are read, and plots rate, memory and stalls (ARGS='--keys N --plot FILE').
	@$(BIN)/python scripts/bench/big_load.py $(ARGS)

lock: ## Resolves the dependencies anew and writes requirements.lock.
	@scripts/venv.sh lock

clean: ## Removes caches and what was built; never data/ nor .venv.
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache $(NEWEST)
	@find . \( -path ./data -o -path ./$(VENV) -o -path ./.git \) -prune -o -type d -name __pycache__ -exec rm -rf {} +
