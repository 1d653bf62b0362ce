# make demo | make test | make test-slow | make docs | make check | make soak | make gpu-check | make clean.
# The second time only what changed is done again.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-slow docs check soak gpu-check package image lint clean

demo: .venv/demo.stamp
	$(BIN)/ardor demo

test: .venv/test.stamp
	$(BIN)/python -m pytest

# Ray, several processes, kills, a compiler: the tests that take more than ten seconds each
test-slow: .venv/test.stamp
	$(BIN)/python -m pytest -m 'slow and not soak'

docs: .venv/docs.stamp
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html -d docs/_build/doctrees docs site

check: lint test test-slow docs

soak: .venv/test.stamp
	$(BIN)/python -m pytest -m soak -n 0 -s

# dist/: the files of a release, opened by tests/test_package.py; the package installed, and the notebooks run
package: .venv/test.stamp
	$(BIN)/python -m build --no-isolation
	$(BIN)/python -m pytest -m release tests/test_package.py tests/test_notebooks.py

image:
	docker build -t ardor .
	docker run --rm ardor --version

# Ten minutes of a machine with a GPU. DATA=npz:cifar10.npz has real images; OUT=FOLDER keeps the results.
gpu-check: .venv/test.stamp
	$(BIN)/python benchmarks/gpu_check.py $(if $(DATA),--data $(DATA)) $(if $(OUT),--out $(OUT))

lint: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check ardor tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ardor needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

# A torch that is there already (a GPU build, say) is kept. The lock then stops every later install from swapping it.
.venv/torch.lock: requirements-torch.txt constraints.txt | .venv/bin/python
	@echo "Installing into .venv: a minute or so, once."
	$(BIN)/python -c 'import torch' 2>/dev/null || $(PIP) install -q -r requirements-torch.txt -c constraints.txt
	$(PIP) freeze | grep -iE '^(torch|triton|nvidia)' > $@.new && mv $@.new $@

.venv/demo.stamp: .venv/torch.lock pyproject.toml
	$(PIP) install -q -c .venv/torch.lock -c constraints.txt -e '.[demo]'
	touch $@

.venv/test.stamp: .venv/demo.stamp
	$(PIP) install -q -c .venv/torch.lock -c constraints.txt -e '.[test]'
	touch $@

.venv/docs.stamp: .venv/demo.stamp
	$(PIP) install -q -c .venv/torch.lock -c constraints.txt -e '.[docs]'
	touch $@

.venv/dev.stamp: .venv/test.stamp
	$(PIP) install -q -c .venv/torch.lock -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs build dist site jupyter_execute docs/_build docs/reference/api docs/reference/commands .pytest_cache .mypy_cache .ruff_cache
