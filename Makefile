# Each target is one line a person would type. VENV and PYTHON may be set: make lab PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# The notebooks are compared with what they print for drawn images and one thread.
COMPARED = COURSE_DATA=drawn OMP_NUM_THREADS=1
NBVAL = $(BIN)/python -m pytest --nbval notebooks -p no:cacheprovider -n 2 --dist loadscope --nbval-cell-timeout 300

.PHONY: lab test benchmark test-notebooks test-browser test-other-cpu test-two-threads notebooks badges lint faults

lab: $(VENV)/ready          ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) --notebook-dir=. notebooks

test: lint $(VENV)/ready    ## every test, the notebooks included
	$(COMPARED) $(BIN)/python -m pytest tests -n 2
	$(MAKE) test-notebooks

test-notebooks: drawn       ## run the notebooks and compare what they print
	$(COMPARED) $(NBVAL)

test-other-cpu: drawn       ## the same comparison, as on a CPU without AVX-512
	$(COMPARED) ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(NBVAL)

test-two-threads: drawn     ## the same comparison with two threads
	$(COMPARED) OMP_NUM_THREADS=2 $(NBVAL)

# Playwright drives the browser; it is installed here because only these tests need it.
test-browser: drawn         ## run the notebooks in JupyterLab in a real browser, if Chromium is there
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "playwright>=1.50"
	$(BIN)/python -m pytest tests/browser

faults: drawn               ## kill, damage and fill up for some minutes, and count what the checkpoints survived
	PYTHONPATH=tests $(COMPARED) $(BIN)/python -W ignore::UserWarning -m faults

notebooks: drawn            ## run every notebook as the tests do and save its outputs
	$(COMPARED) $(BIN)/python notebooks/maintain.py run

benchmark: $(VENV)/ready    ## the time that saving and loading take, against the plain ways
	$(BIN)/python benchmarks/checkpoints.py

badges:                     ## point every link at a fork: make badges REPO=owner/name
	$(PYTHON) notebooks/maintain.py badges $(REPO)

lint: $(VENV)/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# Draw the images once, before two notebooks want them at the same time.
.PHONY: drawn
drawn: $(VENV)/ready
	@$(COMPARED) $(BIN)/python -c "from course_utils.data import find_images; find_images()"

$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Try: make $(MAKECMDGOALS) PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -e .
	@touch $@
