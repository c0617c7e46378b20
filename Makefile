# Needs python3 (3.11 or newer, with venv) and make; everything else is installed into .venv.
PYTHON ?= python3
PROFILE ?= quick
ARGS ?=
VENV := .venv
STAMP := $(VENV)/.stamp
RUN := $(VENV)/bin/python
PEERS := $(VENV)/peers

.DEFAULT_GOAL := help
.PHONY: help study full test check lab app bench clean distclean FORCE

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

study: $(STAMP) ## run all notebooks into runs/quick (PROFILE=full or paper; ARGS="--only 03 -p steps=10")
	@$(RUN) -m helpers.study --profile $(PROFILE) $(ARGS)

full: ## run all notebooks with the parameters of the committed figures (a day or more on 2 CPU cores)
	@$(MAKE) --no-print-directory study PROFILE=full

check: $(STAMP) ## lint, format, types and the fast tests: a minute, before each commit
	@$(RUN) -m ruff check
	@$(RUN) -m ruff format --check
	@$(RUN) -m mypy
	@$(RUN) -m pytest tests -q -m "not slow and not gpu" -n auto --maxprocesses=8 --dist loadfile $(ARGS)

test: $(STAMP) ## run the tests and check the notebooks' outputs (ARGS="-k attack")
	@$(RUN) -m pytest tests notebooks -n auto --maxprocesses=8 --dist loadfile --no-loadscope-reorder \
		--nbval-lax --nbval-current-env --nbval-cell-timeout=1800 --nbval-kernel-startup-timeout=180 $(ARGS)

lab: $(STAMP) ## open the notebooks in JupyterLab
	@$(RUN) -m jupyterlab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks --LabApp.news_url= $(ARGS)

app: $(STAMP) ## serve the explorer alone, as a page in the browser
	@$(RUN) -c 'import voila' 2>/dev/null || $(RUN) -m pip install -qq -c constraints.txt -e ".[test,app]"
	@$(RUN) -m voila notebooks/app/explorer.ipynb $(ARGS)

bench: $(PEERS)/.stamp ## time a phantom, training and attacks on this machine, beside five attack libraries
	@$(RUN) tests/benchmarks/bench.py $(ARGS)
	@$(RUN) tests/benchmarks/sweep.py
	@PYTHONPATH="$(CURDIR)" $(PEERS)/bin/python tests/benchmarks/peers.py $(ARGS)

clean: ## remove .venv and caches (results in runs/ and your data in data/ stay)
	rm -rf $(VENV) runs/tests build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis data/cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

distclean: clean ## remove the results and trained networks in runs/ too
	rm -rf runs

# Installed once, and again if the requirements changed or the folder was moved.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
$(STAMP): FORCE
endif
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make: $(PYTHON) must be Python 3.11 or newer; name one with PYTHON=..." >&2; exit 1; }
	@echo "Installing into $(VENV): once, a few minutes ..."
	@$(PYTHON) -m venv --clear $(VENV) >$(VENV).log 2>&1 && rm -f $(VENV).log \
		|| { rm -rf $(VENV) $(VENV).log; echo "make: '$(PYTHON) -m venv' failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[test,cluster,dev]"
	@echo "$(CURDIR)" > $@

# The benchmark's libraries, which ask for packages that the study does without, see the study's packages from outside.
$(PEERS)/.stamp: $(STAMP)
	@echo "Installing the benchmark's libraries into $(PEERS) ..."
	@rm -rf $(PEERS) && $(PYTHON) -m venv $(PEERS)
	@$(RUN) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(PEERS)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/study.pth"
	@$(RUN) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"])' \
		| xargs $(PEERS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps
	@touch $@
