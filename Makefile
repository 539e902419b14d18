# One command per chore; each makes the environment it needs. `make` alone lists them.

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := $(wildcard broker runtime tests tools examples benchmarks)

# What runs on three primaries with a replica each instead of one server: make test TOPOLOGY=cluster
TOPOLOGY ?= standalone
ON_CLUSTER := tests/store tests/broker tests/runtime tests/model tests/cluster

# Another server than the one found, downloaded when it is first asked for: make test SERVER=valkey-9
SERVER ?=
WITH_SERVER = $(if $(SERVER),server=$$($(BIN)/python -m tools.provide_server $(SERVER)) && PENSTOCK_REDIS_SERVER="$$server")

# An environment made with another Python than the one asked for is made anew.
VERSION := import sys; print(sys.version_info[:2])
ifneq ($(PYTHON),)
ifneq ($(shell $(PYTHON) -c "$(VERSION)" 2>&1),$(if $(wildcard $(BIN)/python),$(shell $(BIN)/python -c "$(VERSION)" 2>&1)))
$(shell rm -f $(STAMP))
endif
endif

.DEFAULT_GOAL := help
.PHONY: help install demo test test-compose faults check format bench lock clean

help:  ## show this list
	@echo "usage: make TARGET"
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)$$/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo "  PYTHON=python3.12 chooses the interpreter (3.11 or newer), VENV=DIR the environment"
	@echo "  TOPOLOGY=cluster runs the tests of store, queues and workers on a Redis Cluster of 3+3"
	@echo "  SERVER=valkey-9, redis-8 or redis-6 runs test, bench or demo on that server, downloaded when first asked for"

install: $(STAMP)  ## make the environment in .venv, with a redis-server if there is none

demo: $(STAMP)  ## thumbnails of the photographs in the repository, or of PHOTOS=DIR
	@$(WITH_SERVER) $(BIN)/python -m examples.thumbnails.demo $(if $(PHOTOS),--photos '$(patsubst ~/%,$(HOME)/%,$(PHOTOS))')

test: $(STAMP)  ## all tests, on a real Redis; ARGS="-k name -n0" goes to pytest; TOPOLOGY=cluster, SERVER=valkey-9
	$(WITH_SERVER) PENSTOCK_TEST_TOPOLOGY=$(TOPOLOGY) $(BIN)/python -m pytest $(if $(filter cluster,$(TOPOLOGY)),$(ON_CLUSTER)) $(ARGS)

test-compose: $(STAMP)  ## docker-compose.yml for real, as root: brings stacks up, kills containers, takes them down
	PENSTOCK_TEST_COMPOSE=1 $(BIN)/python -m pytest -n0 tests/compose $(ARGS)

faults: $(STAMP)  ## the fault suite at full size, hours; writes docs/reliability-report.md; ARGS="R1 R3 --resume --list"
	$(BIN)/python -m tests.faults $(ARGS)

check: $(STAMP)  ## format, lint, strict types, import rules
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy $(CODE)
	$(BIN)/python -m pytest --quiet -n0 tests/test_imports.py

format: $(STAMP)  ## write the format, and mend what the linter can
	$(BIN)/ruff check --fix-only $(CODE)
	$(BIN)/ruff format $(CODE)

bench: $(STAMP)  ## measure; writes a table and JSON under benchmarks/
	$(WITH_SERVER) $(BIN)/python -m benchmarks $(ARGS)

lock: $(STAMP)  ## pin what the image installs, by hash, and what the tests run with; ARGS=--upgrade for the newest
	@command -v uv >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	tools/lock_requirements.sh "$$(command -v uv || echo $(BIN)/uv)" $(ARGS)

clean:  ## remove the environment and all caches; the data in .penstock/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# The first of these that runs and is new enough; tested versions before newer ones.
FIND_PYTHON = \
	for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
		"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && break; python=; \
	done; \
	if [ -z "$$python" ]; then for python in $(or $(PYTHON),python3 python); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	done; fi; \
	if [ -z "$$python" ]; then \
		echo "Python 3.11 or newer is needed, and $(or $(PYTHON),python3 on PATH) is not that:" \
			"install it, or name it: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)" >&2; exit 1; \
	fi

$(STAMP): pyproject.toml tools/constraints.txt tools/provide_redis_server.py tools/server_wheels.py tools/provide_query_client.py
	@$(FIND_PYTHON); \
	"$$python" -m venv --clear $(VENV) || { \
		rm -rf $(VENV); \
		echo "$$python cannot make a virtual environment: on Debian and Ubuntu install python3-venv, then try again" >&2; \
		exit 1; }
	@if command -v uv >/dev/null 2>&1; \
		then uv pip install --quiet --python $(BIN)/python --constraint tools/constraints.txt --editable '.[demo,dev]'; \
		else $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint tools/constraints.txt --editable '.[demo,dev]'; fi
	@$(BIN)/python -m tools.provide_redis_server
	@$(BIN)/python tools/provide_query_client.py
	@touch $@
