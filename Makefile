# Everything a contributor runs. `make help` lists it; only Python >= 3.11, a C compiler and make are needed.

ifndef PYTHON
# The first that runs and is new enough: a name on the PATH may be too old, or a version manager's empty shim.
PYTHON := $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif

VENV := .venv
BIN := $(VENV)/bin
PORTABLE := build/portable
PYTEST := -m pytest -m "not stress"
# What has nothing of a build in it, so that one run of it is enough.
OF_NO_BUILD := --ignore=tests/test_models.py --ignore=tests/test_model_wake.py
AARCH64_CC := aarch64-linux-gnu-gcc
QEMU := $(firstword $(foreach name,qemu-aarch64-static qemu-aarch64,$(shell command -v $(name))) qemu-aarch64)
# Those of shared memory that neither step a victim by ptrace, which qemu does not have, nor compare times.
QEMU_TESTS := test_segment test_wake test_images_faults \
	$(foreach name,ring queue broadcast deque buffers sync,test_$(name) test_$(name)_faults)
C_FILES := csrc/native_build.py $(wildcard csrc/*.[ch] csrc/*/*.[ch])
PY_FILES := $(shell find src -name '*.py' 2>/dev/null)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# pip reads no list of build requirements, or of an extra without its package: they are copied out of pyproject.toml.
REQUIRE = $(BIN)/python -c 'import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print(*p$(1), sep="\n")' \
	>$(VENV)/requirements.txt && $(PIP) -r $(VENV)/requirements.txt

.PHONY: help demo test build test-c asan tsan portable fuzz soak qemu peers bench lint type clean

help:
	@echo 'make demo      build, install and show what it is worth: corelane bench --quick'
	@echo 'make test      build, install and run the tests (all but those marked stress)'
	@echo 'make build     make $(VENV) and install corelane into it, editable'
	@echo 'make test-c    the C programs of tests/c, no Python in them'
	@echo 'make asan      the same under AddressSanitizer and UBSan'
	@echo 'make tsan      the same under ThreadSanitizer'
	@echo 'make fuzz      hostile segments under libFuzzer, which needs clang; SECONDS=60'
	@echo 'make soak      objects in shared memory under random kills and stops; SECONDS=150 for each'
	@echo 'make qemu      C programs of shared memory, built for aarch64 and run by qemu'
	@echo 'make portable  the C programs and the tests against the portable build'
	@echo 'make bench     all benchmarks'
	@echo 'make peers     installs what corelane bench compares with'
	@echo 'make lint      ruff, the import layers, the rules of the house'
	@echo 'make type      mypy --strict'
	@echo 'make clean     remove all that make made'

demo: build
	$(BIN)/corelane bench --quick

test: build
	$(BIN)/python $(PYTEST)

build: $(VENV)/.built

peers: build
	$(call REQUIRE,["project"]["optional-dependencies"]["bench"])

bench: build
	$(BIN)/python -m pytest benchmarks

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_house.py

type: $(VENV)/.dev
	$(BIN)/mypy

test-c:
	@$(MAKE) --no-print-directory -f tests/c/Makefile PYTHON='$(PYTHON)' VARIANT=plain
asan tsan:
	@$(MAKE) --no-print-directory -f tests/c/Makefile PYTHON='$(PYTHON)' VARIANT=$@

fuzz:
	@$(MAKE) --no-print-directory -f tests/fuzz/Makefile PYTHON='$(PYTHON)'

soak: build
	$(BIN)/python tests/soak.py --seconds $(or $(SECONDS),150)
	$(BIN)/python tests/soak_held.py --seconds $(or $(SECONDS),150)

# Whatever cross compiler and emulator there is: AARCH64_CC, QEMU.
qemu:
	@command -v $(AARCH64_CC) >/dev/null && command -v $(QEMU) >/dev/null || { \
		echo '$(AARCH64_CC) or $(QEMU) is missing; on Debian and Ubuntu:' \
		'apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user'; exit 1; }
	@$(MAKE) --no-print-directory -f tests/c/Makefile PYTHON='$(PYTHON)' VARIANT=aarch64 CC='$(AARCH64_CC)' QEMU='$(QEMU)' $(QEMU_TESTS)

portable: $(PORTABLE)/.built
	@$(MAKE) --no-print-directory -f tests/c/Makefile PYTHON='$(PYTHON)' VARIANT=portable
	CORELANE_PORTABLE=1 $(PORTABLE)/venv/bin/python $(PYTEST) $(OF_NO_BUILD)

clean:
	rm -rf $(VENV) build dist wheelhouse src/*.egg-info src/corelane/*.so src/corelane/_exec
	rm -rf .benchmarks .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What cannot be repaired here is said in words, before pip buries it in a page of output.
define check_machine
@[ -n '$(PYTHON)' ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo 'corelane needs Python 3.11 or later, and `$(or $(PYTHON),python3)` is not; try: make PYTHON=/path/to/python3.12'; exit 1; }
@command -v $(CC) >/dev/null || { \
	echo 'corelane needs a C compiler, and `$(CC)` is not there; on Debian and Ubuntu: apt install gcc libc6-dev'; exit 1; }
@$(PYTHON) -c 'import os, sysconfig; os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))' 2>/dev/null || { \
	echo 'the headers of $(PYTHON) (Python.h) are missing; on Debian and Ubuntu: apt install python3-dev'; exit 1; }
endef

$(VENV)/.made:
	$(check_machine)
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo '$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv'; exit 1; }
	$(call REQUIRE,["build-system"]["requires"])
	@touch $@

# Python files need nothing (the install is editable), C files only a compiler; the rest goes through pip.
$(VENV)/.built: $(VENV)/.made pyproject.toml setup.py $(C_FILES)
	$(if $(filter-out csrc/%,$?),$(PIP) --no-build-isolation -e '.[test]',$(BIN)/python setup.py -q build_ext --inplace)
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.built
	$(call REQUIRE,["project"]["optional-dependencies"]["dev"])
	@touch $@

# Its own environment, where a test cannot meet the other build by accident. The tools are borrowed from $(VENV).
$(PORTABLE)/.built: $(VENV)/.built $(C_FILES) $(PY_FILES)
	rm -rf $(PORTABLE)
	$(BIN)/python -m venv --without-pip $(PORTABLE)/venv
	$(BIN)/python -c 'import sysconfig as s; \
		open(s.get_path("purelib", vars={"base": "$(PORTABLE)/venv"}) + "/tools.pth", "w").write(s.get_path("purelib"))'
	CORELANE_PORTABLE=1 $(PORTABLE)/venv/bin/python -m pip --disable-pip-version-check install --quiet \
		--no-deps --no-build-isolation .
	@touch $@
