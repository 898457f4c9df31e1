# The commands of the project. `make up`, `make demo` and `make test` install and start what they need themselves.
.POSIX:
.PHONY: help up demo down clean test test-openstack check unit venv bench requirements
DEPTH ?= short
PYTHON ?= python3
export DEPTH

help:
	@echo "make up      start the development stack on this machine (PROFILE=keystone: with a Keystone and an API that asks it)"
	@echo "make demo    the main job: create an instance, use it, restart it, compare, delete it"
	@echo "make test    every kind of test (DEPTH=full for all of each)"
	@echo "make test-openstack   what needs a real OpenStack; says which settings name it"
	@echo "make check   linters, types, import rules"
	@echo "make bench   figures, with the load of the machine beside them"
	@echo "make down    stop the stack; data stays"
	@echo "make clean   stop it and remove all it made: instances, volumes, networks"

up:
	@[ -z "$(PROFILE)" ] || export COFFER_PROFILES="$(PROFILE)"; deploy/up.sh

demo: up
	@$(PYTHON) deploy/demo.py

down:
	@deploy/down.sh

clean:
	@deploy/down.sh --all

venv: .venv/.made
.venv/.made: requirements/dev.txt shared/pyproject.toml services/pyproject.toml guest/pyproject.toml
	@echo "Making .venv ..."
	@$(PYTHON) -m venv .venv
	@.venv/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@.venv/bin/pip install -q --disable-pip-version-check --no-deps -e shared -e services -e guest
	@touch $@

check: venv
	@.venv/bin/ruff check .
	@.venv/bin/mypy shared services guest tests deploy bench
	@.venv/bin/lint-imports --config .importlinter

unit: venv
	@.venv/bin/pytest -q tests/unit

test: venv
	@tests/run.sh

test-openstack: venv
	@tests/on_openstack/run.sh

bench: venv
	@bench/run.sh

requirements: venv
	@requirements/compile.sh --upgrade
