# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
IMAGES ?=
INPUT ?=
OUTPUT ?= demo-output

.PHONY: help demo demo-stream test test-cluster lint types bench bench-stream bench-gpu clean lock templates

help:  ## what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## set up and run everything on real images; IMAGES=/some/folder runs it on yours
	$(BIN)/beam-vision demo --output $(OUTPUT) $(if $(IMAGES),--images $(IMAGES))

demo-stream: OUTPUT = demo-stream-output
demo-stream: $(VENV)/.demo  ## set up and run simulated cameras for a minute; INPUT=/some/folder watches that
	$(BIN)/beam-vision demo-stream --output $(OUTPUT) $(if $(INPUT),--input $(INPUT))

test: $(VENV)/.test lint types  ## set up, lint, check types and run all tests
	$(BIN)/python -m pytest

test-cluster: $(VENV)/.test  ## whole jobs on Prism and on Flink; needs Java, Maven and Go, and fetches both once
	@for tool in java mvn go; do command -v $$tool >/dev/null || echo "test-cluster: no $$tool here; what needs it is skipped"; done
	$(BIN)/python -m pytest -rs tests/cluster_flink

lint: $(VENV)/.test  ## ruff: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test  ## mypy
	$(BIN)/mypy

LOCK := $(BIN)/python -m uv pip compile setup.py --quiet --upgrade --generate-hashes --no-annotate \
  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --custom-compile-command 'make lock'

lock: $(VENV)/.test  ## lock what the images of flex templates hold, with hashes (needs PyPI)
	$(BIN)/python -m pip install --quiet 'uv>=0.9'
	$(LOCK) --extra onnx --output-file templates/flex/requirements.txt
	$(LOCK) --extra onnx --extra gpu --constraint templates/flex/requirements.txt \
	  --constraint templates/flex/cuda-constraints.txt --output-file templates/flex/requirements-gpu.txt

templates: $(VENV)/.test  ## write what flex templates say of their parameters, from the jobs' options
	$(BIN)/beam-vision template metadata --output templates/flex

bench: $(VENV)/.test  ## benchmarks, paired in one run (about 40 minutes)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python -m benchmarks.run

bench-stream: $(VENV)/.test  ## the stream against a bare loop, on the Pub/Sub emulator (about 12 minutes)
	$(BIN)/python -m benchmarks.run --only stream

bench-gpu: $(VENV)/.test  ## the handler against the bare model, on a machine with an NVIDIA GPU
	$(BIN)/python -m pip install --quiet --editable '.[bench,gpu]'
	$(BIN)/python -m benchmarks.gpu

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v <= (3, 13) else "beam-vision needs Python 3.10 to 3.13, and %s is %d.%d: make PYTHON=python3.11 demo" % ((sys.executable,) + v))'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "this Python has no venv module: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.test: setup.py | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo,test]'
	@touch $@

clean:  ## remove the environment and what the demo and the benchmarks wrote
	rm -rf $(VENV) demo-output demo-stream-output bench-output build dist *.egg-info
