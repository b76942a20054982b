# Two commands for a fresh machine: `make simulate` and `make test`. Each makes .venv when it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: simulate test slow lint format docs gallery viewer flwr clean

simulate: $(STAMP)
	$(BIN)/fedmerge simulate --out runs/simulate --resume

# Files of tests in so many processes.
WORKERS := 2
test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The documentation as a site, in docs/_build/.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build

# The stories of docs/gallery, run anew: what comes out is written onto their pages, their pictures beside them.
gallery: $(STAMP)
	$(BIN)/python tests/stories.py

# NiiVue for the page of `fedmerge report`, as package-lock.json pins it: one file and its licences, which a wheel that is
# built afterwards has in it. It needs node and npm. Without it the page draws slices by itself, and nothing else changes.
NIIVUE := fedmerge/pages/niivue
viewer:
	npm --prefix $(NIIVUE) ci --ignore-scripts
	node $(NIIVUE)/build.mjs
	rm -rf $(NIIVUE)/node_modules

# The default campaign through Flower's own runtime, in this folder, with a Flower home of its own.
flwr: $(STAMP)
	$(BIN)/python -m server.flower --app . --out runs/flwr

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fedmerge needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) docs/_build build dist *.egg-info $(NIIVUE)/built $(NIIVUE)/node_modules
