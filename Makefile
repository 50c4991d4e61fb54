# Everything runs in .venv, made on first use from settings.ini and constraints.txt.
# PYTHON: the interpreter that makes .venv (3.11 or later). JOBS: notebooks, and then test files, run at once. ARGS: passed on to the command. NB: the notebook of `make run`.
PYTHON ?= python3
JOBS ?= 2
ARGS ?=
NB ?=

.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

BIN := .venv/bin
PINS := settings.ini setup.py pyproject.toml constraints.txt
# stamp files: what was installed last is newer than what says what to install
RUNTIME := .venv/.installed-runtime
DEV := .venv/.installed-dev
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable
# pip says nothing for most of a minute while it unpacks: a dot every other second shows that it is alive
ALIVE := (while sleep 2; do printf . >&2; done) & alive=$$!; trap 'kill $$alive; echo >&2' EXIT;

.PHONY: help install pilot test bounds kills export readme docs run lab constraints clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# pip is what `venv` puts in last: an interrupted one is made again
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"arc_jepa needs Python 3.11 or later, this is {sys.version.split()[0]}: make PYTHON=python3.11 ..."'
	$(PYTHON) -m venv --clear .venv

$(RUNTIME): $(PINS) | $(BIN)/pip
	@echo 'Installing arc_jepa into .venv (a minute or two, torch is the large part) ...'
	@$(ALIVE) $(INSTALL) .
	@touch $@

$(DEV): $(PINS) | $(BIN)/pip
	@echo 'Installing arc_jepa and its development tools into .venv (a minute or two, torch is the large part) ...'
	@$(ALIVE) $(INSTALL) '.[dev]'
	@touch $(RUNTIME) $@

install: $(DEV) ## make .venv with the package (editable) and the development tools

pilot: $(RUNTIME) ## the whole way on a small scale: data, training, solving, a report
	$(BIN)/arc-jepa pilot $(ARGS)

test: $(DEV) ## notebooks and package in step, notebooks run, pytest
	@echo '== 1/3 notebooks, modules and README are in step'
	$(BIN)/python .ci/in_step.py
	@echo '== 2/3 every notebook runs from top to bottom'
	OMP_NUM_THREADS=1 $(BIN)/nbdev_test --n_workers $(JOBS) --do_print --timing
	@echo '== 3/3 tests'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(ARGS)

bounds: $(DEV) ## a million random programs with bounds checks, after a change of a kernel (two minutes)
	$(BIN)/python tests/bounds.py

kills: $(DEV) ## kill 200 training runs at random moments and inside of saves, and compare how they end (four minutes)
	$(BIN)/python tests/killed.py many 200

export: $(DEV) ## write modules and README from the notebooks, and clean the notebooks
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python .ci/readme.py

readme: $(DEV) ## write README.md from nbs/index.ipynb
	$(BIN)/python .ci/readme.py

docs: $(DEV) ## write the notebooks as pages to docs/_build, index.html first
	for folder in . guides; do $(BIN)/jupyter nbconvert --log-level WARN --to html --output-dir docs/_build/$$folder nbs/$$folder/*.ipynb; done
	sed -i -E 's/href="([^":]+)\.ipynb/href="\1.html/g' docs/_build/*.html docs/_build/guides/*.html

run: $(DEV) ## execute a run notebook: make run NB=train_jepa ARGS='-p config jepa_tiny'
	$(BIN)/arc-jepa notebook $(NB) $(ARGS)

lab: $(DEV) ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab --notebook-dir nbs $(ARGS)

constraints: ## write constraints.txt from the newest versions that settings.ini allows; then run `make test`
	rm -rf build/venv && $(PYTHON) -m venv build/venv
	build/venv/bin/python -m pip install --quiet '.[dev]'
	{ head -n 1 constraints.txt; build/venv/bin/python -m pip freeze --all | grep -v -e '^pip==' -e '@ ' | sed 's/+cpu$$//'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean: ## remove builds and caches; .venv and artifacts stay
	rm -rf build dist docs/_build *.egg-info .pytest_cache .hypothesis
	find . -path ./.venv -prune -o -path ./artifacts -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf
