# Needs python3 (3.11 or newer, with venv), make, and a network to PyPI.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
PYTEST_FLAGS ?= -n auto --dist loadfile
NOTEBOOK := notebooks/clear_the_oom.ipynb
PAGE := build/clear_the_oom.html

PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

.PHONY: help run lab test lint wheel clean

help:
	@echo "make run    check this machine, execute the guided notebook, write $(PAGE)"
	@echo "make lab    open the same notebook live in JupyterLab"
	@echo "make test   install what the tests need and run them"
	@echo "make lint   ruff (rules and layout) and mypy"
	@echo "make wheel  build the wheel into dist/"

run: $(VENV)/.notebooks
	$(VENV)/bin/hfgpu check
	$(PY) scripts/execute_notebook.py $(NOTEBOOK) $(PAGE)
	@echo
	@echo "The executed notebook: $(abspath $(PAGE))"
	@echo "The live one:          make lab"

lab: $(VENV)/.notebooks
	$(VENV)/bin/jupyter lab $(NOTEBOOK)

test: $(VENV)/.dev
	$(PY) -m pytest $(PYTEST_FLAGS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

wheel: $(VENV)/.dev
	$(PY) -m build --wheel

clean:
	rm -rf $(VENV) build dist

$(PY):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hfgpu_magic needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

# Each stamp says that this set of packages is in; a changed pyproject.toml installs anew.
$(VENV)/.notebooks: pyproject.toml $(CONSTRAINTS) | $(PY)
	$(PIP_INSTALL) -e '.[notebooks]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS) | $(PY)
	$(PIP_INSTALL) -e '.[dev]'
	@touch $(VENV)/.notebooks $@

# Published measurements of real GPUs against the virtual ones (reads ../shared/evidence; skips without it).
.PHONY: fidelity
fidelity: $(VENV)/.dev
	$(PY) benchmarks/fidelity.py
