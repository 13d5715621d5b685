PYTHON ?= python3
VENV := .venv/bin
RUN := runs/digits-vp

.PHONY: demo docs tour test test-slow lint install table2 clocks bench growth bench-gpu pins audit

# One command from a fresh clone to digits drawn by three samplers and exact bits/dim.
demo: .venv/installed
	$(VENV)/python run.py --mode train --sde vp

test: .venv/tested lint
	$(VENV)/python -m pytest -n auto --maxprocesses=8 -m "not slow"

test-slow: .venv/tested
	$(VENV)/python -m pytest -m slow

lint: .venv/tested
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy

# The reference of all config keys.
docs: .venv/installed
	$(VENV)/python -m scoreflow.schema.docs > docs/config.md
	$(VENV)/python -m scoreflow.interop.docs > docs/import_options.md
	$(VENV)/python -m tests.breaks.breaks > docs/breaks.md

# Execute docs/tour.ipynb from scratch and keep its outputs; three minutes of CPU time.
tour: .venv/tested
	$(VENV)/python tests/execute_tour.py

# DDPM's Table 2 on digits, in small; see results/cpu/table2.md.
table2: .venv/installed
	$(VENV)/python -m benchmarks.table2

# Five processes trained with one network, in pairs; see results/cpu/clocks.md. Stopped, it goes on.
clocks: .venv/installed
	$(VENV)/python -m benchmarks.clocks $(ARGS)

# Training, sampling and likelihood beside what others do; see benchmarks/README.md.
bench: .venv/installed
	$(VENV)/pip install -c constraints.txt -e ".[bench]"
	$(VENV)/python -m benchmarks.training
	$(VENV)/python -m benchmarks.sampling
	$(VENV)/python -m benchmarks.overhead
	$(VENV)/python -m benchmarks.divergence
	@if [ -f $(RUN)/config.json ]; then $(VENV)/python -m benchmarks.likelihood --workdir $(RUN); \
	else echo "no likelihood at equal error: $(RUN) holds no trained run; make demo trains it"; fi

# Time and memory of a training step against resolution, batch and processes; see docs/scaling.md.
growth: .venv/installed
	$(VENV)/python -m benchmarks.growth

# All that is to be measured on a CUDA device, in calls of minutes: the same command goes on.
bench-gpu: .venv/installed
	$(VENV)/pip install -c constraints.txt -e ".[bench,data]"
	$(VENV)/python -m benchmarks.gpu $(ARGS)

# Newest versions of everything but torch into constraints.txt; CONTRIBUTING.md says how and when.
pins:
	rm -rf .pins
	$(PYTHON) -m venv .pins
	.pins/bin/pip install "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	echo "torch==$$(sed -n 's/^torch==//p' constraints.txt)" > .pins/torch.txt
	.pins/bin/pip install -c .pins/torch.txt -e ".[test,lint,bench,data]"
	(sed -n '/^#/p' constraints.txt; .pins/bin/pip freeze --exclude-editable | sed 's/+cpu$$//') > .pins/new.txt
	mv .pins/new.txt constraints.txt
	git diff --stat constraints.txt

# Known vulnerabilities of the pinned versions; asks a database in the network.
audit:
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --upgrade pip-audit
	.audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(VENV)/pip install -c constraints.txt "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(VENV)/pip install -c constraints.txt -e .
	touch $@

.venv/tested: .venv/installed
	$(VENV)/pip install -c constraints.txt -e ".[test,lint]"
	touch $@
