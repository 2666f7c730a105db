# Every command of the project; `make` alone lists them. It needs Python >= 3.11 and make, nothing else:
# what the commands run is installed into .venv from the locks, again only when a lock has changed.

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes
# UPGRADE=--upgrade makes `make lock` take the newest versions; without it only what pyproject.toml asks for changes.
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet $(UPGRADE)
LOCK := $(COMPILE) --extra otel pyproject.toml

# Tests start hundreds of processes, and pytest rewrites hundreds of files: each is compiled once, not each time.
unexport PYTHONDONTWRITEBYTECODE

# Tests write to memory if there is enough of it: a busy disk may stand still for seconds.
IN_MEMORY := $(shell { test "$$(df -k --output=avail /dev/shm | tail -1)" -gt 6000000 && echo TMPDIR=/dev/shm; } 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help run test again fast soak check format bench bench-check docs sbom lock clean

help: ## List these commands
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS="$$(printf '\t')" read -r name what; do printf '  make %-11s %s\n' "$$name" "$$what"; done

run: .venv/.runtime ## Run the gateway against a simulated Leanplum; GATEWAY_PORT changes its port, ARGS=--reset empties its database
	@$(BIN)/python -m app serve --sandbox $(ARGS)

# Two workers a core: many tests wait for the processes that they start.
test: .venv/.dev .venv/.clients .venv/.docs .venv/.sbom .venv/.sdks ## Run all tests; ARGS="-k name" picks some
	@$(IN_MEMORY) $(BIN)/pytest --numprocesses $$((2 * $$(getconf _NPROCESSORS_ONLN))) --dist worksteal $(ARGS); \
		status=$$?; echo $$status >.venv/.test-status; exit $$status

again: .venv/.dev ## Run the tests that failed in the last run, one after the other
	@$(IN_MEMORY) $(BIN)/pytest --last-failed --last-failed-no-failures none $(ARGS)

# Tests of single parts: no gateway, no other processes, database servers, browsers or client libraries.
fast: .venv/.dev ## Run the tests of single parts, in less than a minute; ARGS="-k name" picks some
	@$(IN_MEMORY) $(BIN)/pytest --numprocesses $$(getconf _NPROCESSORS_ONLN) --dist worksteal -m "not (gateway or process or server or browser or sdk or slow)" $(ARGS)

# What `make soak` runs longer than `make test` does, and the files with cases that `make test` leaves out.
SOAK := GATEWAY_TESTS_ALL=1 GATEWAY_TESTS_KILLS=200 GATEWAY_TESTS_FAILOVERS=10 GATEWAY_TESTS_EXAMPLES=300 GATEWAY_TESTS_REPLAYS=10000 GATEWAY_TESTS_FLEET_SECONDS=60 GATEWAY_TESTS_HISTORIES=2000 GATEWAY_TESTS_ATTACK_SECONDS=8 GATEWAY_TESTS_FAULT_SECONDS=600 GATEWAY_TESTS_MODELS=200
SOAKED := tests/acceptance/test_kill_loop.py tests/acceptance/test_database_outages.py tests/acceptance/test_bulk_replay.py tests/acceptance/test_relayed_calls.py tests/api/test_api_as_documented.py tests/simulation tests/attacks $(shell grep -rl "mark.sampled" tests --include="test_*.py") tests/delivery/test_delivery_window.py tests/outbox/test_outbox_model.py

soak: .venv/.dev ## Run the long tests, and all cases of sampled ones: 200 kills, 10 failovers, 10,000 replays, a fleet for 60 s, 10,000 calls of the document, 2,000 histories, each attack for 8 s, each fault for 10 minutes of its clock, 200 histories of each model; counts go to build/soak.xml
	@$(SOAK) $(BIN)/pytest --timeout 0 --junit-xml build/soak.xml -o junit_family=xunit1 $(SOAKED) $(ARGS)

check: .venv/.dev ## Look at everything that is checked without running it
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy --strict --no-error-summary app bench tests
	$(BIN)/lint-imports
	$(BIN)/python -m app openapi --check
	$(BIN)/python -m app settings --docs --check

format: .venv/.dev ## Format the code and mend what can be mended
	@$(BIN)/ruff format
	@$(BIN)/ruff check --fix

bench: .venv/.dev ## Measure throughput, latency and memory; ARGS=--quick for a short run
	@$(BIN)/python -m bench $(ARGS)

bench-check: .venv/.dev ## Measure, and fail if a ratio fell by more than 15 % against bench/ratios.json; on a quiet machine
	@$(BIN)/python -m bench --check $(ARGS)

# The pages keep their places, so that their links lead to each other in the tree and in the site.
SITE := build/site
PAGES := .env.example README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md bench/README.md deploy docs openapi
docs: .venv/.docs ## Build the documentation as a site in build/site; a broken link or anchor fails
	@rm -rf $(SITE) $(SITE).pages && mkdir -p $(SITE).pages && tar -cf - $(PAGES) | tar -xf - -C $(SITE).pages
	@PYTHONPATH=.venv/docs PAGES=$(abspath $(SITE)).pages NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir $(abspath $(SITE))

PIP_AUDIT := pip-audit
sbom: .venv/.sbom ## List what the image installs in build/sbom.cdx.json (CycloneDX), and its known vulnerabilities if pip-audit is installed
	@mkdir -p build
	@sed "s/^dynamic = .*/version = \"$$($(BIN)/python -c 'import app; print(app.__version__)')\"/" pyproject.toml >build/sbom.toml
	@PYTHONPATH=.venv/sbom $(BIN)/python -W ignore -m cyclonedx_py requirements --pyproject build/sbom.toml --output-reproducible --output-file build/sbom.cdx.json requirements.lock
	@echo 'build/sbom.cdx.json is written.'
	@if command -v $(PIP_AUDIT) >/dev/null; then $(PIP_AUDIT) --disable-pip --require-hashes --requirement requirements.lock; \
	else echo '$(PIP_AUDIT) is not installed: known vulnerabilities are not looked up.'; fi

lock: .venv/.dev ## Write the locks anew from pyproject.toml; UPGRADE=--upgrade takes newer versions
	@$(LOCK) --output-file requirements.lock
	@$(LOCK) --group dev --constraint requirements.lock --output-file requirements-dev.lock
	@$(COMPILE) --group docs --output-file requirements-docs.lock
	@$(COMPILE) --group sbom --output-file requirements-sbom.lock

clean: ## Remove what these commands made, but not data/
	@rm -rf .venv $(NODE_FOLDERS:=/node_modules) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	@find app bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: no $(PYTHON) here; name another with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is too old: Python >= 3.11 is needed; name another with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

# The stamps tell what .venv holds. The development lock holds the runtime's too, so it stamps both.
.venv/.runtime: requirements.lock | .venv/bin/python
	@echo 'Installing requirements.lock into .venv …' >&2
	@$(PIP_INSTALL) --requirement requirements.lock
	@touch $@

# Leanplum's own clients, which tests run unchanged, a generator of clients, and Helm. Two are packages of one name, and the generator
# needs other versions of libraries than the gateway: each has a folder of its own.
CLIENTS := tests/sdk/leanplum.txt tests/sdk/python-leanplum.txt tests/openapi/openapi-python-client.txt tests/deploy/helm.txt
.venv/.clients: $(CLIENTS) .venv/.dev
	@for list in $(CLIENTS); do $(PIP_INSTALL) --no-deps --upgrade --target .venv/clients/$$(basename $$list .txt) --requirement $$list || exit; done
	@touch $@

# Both need other versions of libraries than the gateway.
.venv/.docs .venv/.sbom: .venv/.%: requirements-%.lock | .venv/bin/python
	@echo 'Installing requirements-$*.lock into .venv/$* …' >&2
	@$(PIP_INSTALL) --no-deps --upgrade --target .venv/$* --requirement requirements-$*.lock
	@touch $@

NODE_FOLDERS := tests/browser tests/openapi tests/sdk tests/segment
.venv/.sdks: $(NODE_FOLDERS:=/package-lock.json) | .venv/bin/python
	@if command -v npm >/dev/null; then for folder in $(NODE_FOLDERS); do npm ci --prefix $$folder --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null || exit; done; fi
	@touch $@

.venv/.dev: requirements-dev.lock requirements.lock | .venv/bin/python
	@echo 'Installing requirements-dev.lock into .venv …' >&2
	@$(PIP_INSTALL) --requirement requirements-dev.lock
	@touch .venv/.runtime $@
