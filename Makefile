# The four commands of the contract (demo, test, check, bench) and their housekeeping. Everything is installed
# into .venv from the hashed lock files; two stamps tell how much is there, so that the demo never waits for
# what only the tests need.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
PORT ?= 8080
MINUTES ?= 30
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

# Folders of fast tests. Those that need Chromium, Node or a real server stay with `make test`.
UNIT_TESTS = $(wildcard tests/core tests/relay tests/test_*.py)
PROGRAMS = src tests $(wildcard bench)

.NOTPARALLEL:
.PHONY: help demo test check bench soak micro bench-tools chaos chaos-peers chaos-replicas rollout docs fuzz screenshots image image-test policy lock model audit clean venv dev needs static core-coverage

help: ## what can be made
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

demo: venv ## simulator, relay and page in one go; PORT=… chooses another port
	@exec $(BIN)/lebureau-relay demo --port $(PORT)

# Three at once, a file each, the longest first (tests/conftest.py): most tests wait for time to pass. The core's have just run.
# What fails in company is told, and judged by how it does alone: on two cores another file's Chromium or three replicas may be
# what took the time.
test: needs static core-coverage docs ## everything: format, lint, types, core coverage, every test
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --ignore tests/core --benchmark-disable || \
		$(BIN)/python -m pytest --last-failed --last-failed-no-failures none --benchmark-disable

check: static ## the quick subset for every edit: format, lint, types, unit tests
	$(BIN)/python -m pytest -q $(UNIT_TESTS)

bench: bench-tools ## measure against the peers, results in bench/results; SCENARIO=… runs one
	$(BIN)/python -m bench $(SCENARIO)

soak: bench-tools ## clients that come and go for MINUTES=30: memory flat, nothing left over
	$(BIN)/python -m bench soak --minutes $(MINUTES)

micro: dev ## how fast the inner pieces are; `make test` runs the same ones briefly
	$(BIN)/python -m pytest tests/micro --benchmark-max-time=2

bench-tools: dev
	@bench/tools.sh $(BIN)/python

chaos: needs ## break everything around the relay and count what is lost: short, or MINUTES=60 SEED=7, or SCENARIO='cut amnesia'
	$(BIN)/python -m bench.chaos $(SCENARIO) $(if $(filter-out file,$(origin MINUTES)),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

chaos-peers: needs bench-tools ## the same faults on nchan, nginx and aiohttp-sse
	$(BIN)/python -m bench.chaos --peers $(if $(SEED),--seed $(SEED))

chaos-replicas: needs ## kill, stop and part replicas and Redis: 200 feeds, 1000 clients, minutes; SCENARIO=… plays one
	$(BIN)/python -m tests.replicas.chaos $(SCENARIO)

rollout: needs bench-tools ## three replicas behind nginx are replaced as Kubernetes does it, 3000 clients: what they notice, written into docs
	$(BIN)/python -m tests.rollout

DOCS := docs-site/.cache

docs: $(DOCS)/.installed ## the docs as a site in build/site, strictly: no dead link, no lost page
	$(DOCS)/bin/mkdocs build --config-file docs-site/mkdocs.yml
	@echo 'build/site/index.html; with search: $(PYTHON) -m http.server --bind 127.0.0.1 --directory build/site'

# Beside .venv, whose lock it should not bind.
$(DOCS)/.installed: docs-site/requirements.lock
	@tests/python.sh $(PYTHON) $(DOCS)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check --no-input install --quiet --no-deps --require-hashes -r $<
	@touch $@

EXAMPLES ?= 2000

model: dev ## EXAMPLES=… random schedules of each model of the relay, always new ones; then what is broken on purpose must be caught
	RELAY_EXAMPLES=$(EXAMPLES) $(BIN)/python -m pytest -q -x -n 2 --dist load tests/relay/test_stateful.py \
		tests/replicas/hubs/test_storm.py tests/replicas/hubs/test_mutations.py

fuzz: MINUTES = 5
fuzz: dev ## bend everything that reads others' bytes; MINUTES=… in all, always with new seeds
	$(BIN)/python -m tests.fuzz $(MINUTES)

screenshots: needs ## the demo page at work, for README.md: docs/images/demo.png
	$(BIN)/python -m tests.demo.picture

IMAGE ?= lebureau-relay
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# The time of everything in the image, so that two builds of a commit are the same.
EPOCH = $(or $(SOURCE_DATE_EPOCH),$(shell git log -1 --format=%ct 2>/dev/null),0)

# Docker's program is there on many machines whose daemon isn't. BuildKit takes the times of files in layers only from
# `BUILD_FLAGS='--output type=oci,dest=relay.tar,rewrite-timestamp=true'`; the others have --timestamp.
image: ## build it with docker, podman or buildah, whichever works; IMAGE=… TAG=… BASE=… BUILD_FLAGS=…
	@if docker info >/dev/null 2>&1; then set -- docker build --build-arg SOURCE_DATE_EPOCH=$(EPOCH); \
	elif command -v podman >/dev/null; then set -- podman build --timestamp $(EPOCH); \
	elif command -v buildah >/dev/null; then set -- buildah build --timestamp $(EPOCH); \
	else echo 'error: nothing here builds images; install one of docker, podman and buildah' >&2; exit 1; fi; \
	set -- "$$@" $(if $(BASE),--build-arg BASE=$(BASE)) --build-arg VERSION=$(TAG) \
		--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) --tag $(IMAGE):$(TAG) $(BUILD_FLAGS) .; \
	echo "$$@"; exec "$$@"

image-test: dev ## build the image twice and run it without a right, on a base made here; root, mmdebstrap and buildah; minutes
	$(BIN)/python -m pytest -q --timeout 1200 tests/k8s/image.py

policy: dev ## what others think of the manifests: checkov, on every overlay, in an environment of its own
	@tests/k8s/policy.sh $(PYTHON)

static: dev
	@$(BIN)/ruff format --check --quiet $(PROGRAMS) || \
		{ echo 'mend with: $(BIN)/ruff format $(PROGRAMS)' >&2; exit 1; }
	@$(BIN)/ruff check --quiet $(PROGRAMS)
	@$(BIN)/mypy

# The core is pure, so its own tests alone must walk every branch; what other tests touch doesn't count.
core-coverage: dev
	$(BIN)/python -m pytest -q tests/core --cov=lebureau_relay.core --cov-branch --cov-fail-under=100

needs: dev
	@tests/needs.sh
	@bench/chaos/tools.sh

venv: $(VENV)/.runtime
dev: $(VENV)/.dev

# The locks are complete, so nothing is resolved again (--no-deps): pip looks at the newest release of whatever is wanted
# with an extra, finds no hash for it and stops, on the day that release appears.
$(VENV)/.runtime: requirements.lock requirements-build.lock pyproject.toml
	@echo 'installing what the relay needs into $(VENV)'
	@tests/python.sh $(PYTHON) $(VENV)
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements.lock -r requirements-build.lock
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	@echo 'installing what the tests need into $(VENV)'
	@$(PIP) install --quiet --no-deps --require-hashes -r requirements-dev.lock
	@touch $@

# Pinned versions and hashes, no index address: whoever installs decides where from.
UV_VERSION := 0.13.9
LOCK_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command 'make lock'

lock: ## resolve the lock files again; UPGRADE=--upgrade takes newer versions
	tools=$$(mktemp -d); trap 'rm -rf "$$tools"' EXIT; \
	$(PYTHON) -m venv "$$tools"; "$$tools/bin/pip" install --quiet uv==$(UV_VERSION); \
	compile() { "$$tools/bin/uv" pip compile pyproject.toml $(LOCK_FLAGS) "$$@"; }; \
	compile $(UPGRADE) --group dev -o requirements-dev.lock; \
	compile -c requirements-dev.lock -o requirements.lock; \
	compile -c requirements-dev.lock --extra tracing -o requirements-tracing.lock; \
	"$$tools/bin/uv" pip compile $(LOCK_FLAGS) --group build -c requirements-dev.lock -o requirements-build.lock; \
	"$$tools/bin/uv" pip compile $(LOCK_FLAGS) $(UPGRADE) bench/requirements.in -o bench/requirements.lock; \
	"$$tools/bin/uv" pip compile $(LOCK_FLAGS) $(UPGRADE) docs-site/requirements.in -o docs-site/requirements.lock

audit: ## known advisories against everything that is locked; asks the package index, which must be reachable
	@tests/audit.sh $(PYTHON)

clean: ## remove everything that was made, the environment included
	rm -rf $(VENV) bench/.cache tests/.cache tests/k8s/.cache $(DOCS) dist build .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .benchmarks .screenshots
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
