# Everything the project needs lies in .venv, made by these targets; nothing else is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A Jetson's OpenCV is JetPack's own, outside any virtual environment.
VENV_FLAGS := $(if $(filter aarch64,$(shell uname -m)),--system-site-packages)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
GPU_VENV := .venv-gpu
# JetPack 6 has Python 3.10, JetPack 7 a later one.
JETSON := $(shell $(PYTHON) -c 'import sys; print("jetson6" if sys.version_info < (3, 11) else "jetson7")')
GPU_EXTRAS := $(if $(filter aarch64,$(shell uname -m)),$(JETSON),gpu)

.PHONY: demo test test-gpu test-jetson lint format bench dist clean docs/demo.png

# The lean runtime alone: no torch.
demo: $(VENV)/.runtime
	$(BIN)/sdi-run --source demo --masks out/demo/masks --overlay out/demo/overlay --jsonl out/demo/results.jsonl
	@echo "pictures with their defects: $(CURDIR)/out/demo/overlay"

# Two at a time with a thread each: most tests are too small for more, and the largest takes 6 GB.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# Where a GPU is, on a desktop or a Jetson: plans of all networks, tests/gpu, speed and parity, and one report. In an
# environment of its own, since ONNX Runtime with CUDA and the one without overwrite each other's files.
test-gpu: $(GPU_VENV)/.gpu
	$(GPU_VENV)/bin/sdi-doctor --prove -o out/proof

# What can be tried of a Jetson without one; as root on Debian, with the packages of tools/debian-packages.txt.
test-jetson: $(VENV)/.dev
	$(BIN)/python -m tools.jetson

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tools
	MYPYPATH=tests $(BIN)/mypy --explicit-package-bases tests/calibration tests/export tests/parity

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs/demo.png: demo
	$(BIN)/python docs/demo_picture.py

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

# Wheel and source archive, checked and installed into an empty environment.
dist: $(VENV)/.dist
	rm -rf build dist *.egg-info
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	for file in dist/*; do .ci/install-check $(PYTHON) "$$file" || exit; done

clean:
	rm -rf $(VENV) $(GPU_VENV) out build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)

$(VENV)/.runtime: pyproject.toml | $(VENV)/bin/python
	@echo "installing the runtime into $(VENV)"
	$(PIP) -e '.[cpu]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	@echo "installing everything into $(VENV) (PyTorch takes a few minutes and 6 GB)"
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.runtime

$(VENV)/.dist: pyproject.toml | $(VENV)/bin/python
	@echo "installing the tools that build the package into $(VENV)"
	$(PIP) -e '.[dist]'
	@touch $@

$(GPU_VENV)/.gpu: pyproject.toml
	@echo "installing what a GPU is proven with into $(GPU_VENV) (PyTorch takes a few minutes and 6 GB)"
	$(PYTHON) -m venv $(VENV_FLAGS) $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$(GPU_EXTRAS),export]' \
	    pytest pytest-xdist
	@touch $@
