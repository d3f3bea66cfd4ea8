# Each target is one line a person would type. VENV and PYTHON may be set: make lab PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

# The notebooks are compared with what they print for drawn images and one thread.
COMPARED = COURSE_DATA=drawn OMP_NUM_THREADS=1
# The long ones first, so that the two processes end at about the same time.
LONG = $(wildcard notebooks/09*.ipynb notebooks/0[3-8]*.ipynb)
PRACTICE = $(wildcard notebooks/practice/*.ipynb)
NBVAL = $(BIN)/python -m pytest --nbval $(LONG) $(filter-out $(LONG),$(wildcard notebooks/*.ipynb)) $(PRACTICE) \
	-p no:cacheprovider -n 2 --dist loadscope --no-loadscope-reorder --nbval-cell-timeout 300

.PHONY: lab test bench benchmark faults test-browser test-floors test-gpu test-notebooks test-other-cpu test-two-threads
.PHONY: notebooks site bench-environment badges openings times lint

lab: $(VENV)/ready          ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks

# Three processes on two cores: many a test waits for one that it has started or killed.
test: lint drawn            ## every test, the notebooks included
	$(COMPARED) $(BIN)/python -m pytest tests -n 3 --dist worksteal
	$(MAKE) test-notebooks

test-notebooks: drawn       ## run the notebooks and compare what they print
	$(COMPARED) $(NBVAL)

test-floors:                ## every test with the oldest versions that requirements.txt allows (Python 3.11, 3.12)
	$(MAKE) test VENV=.venv-floors VERSIONS=--floors

test-gpu: drawn             ## on a machine with a GPU: training, resuming and every notebook on it
	$(BIN)/python -m pytest tests/test_gpu.py

test-other-cpu: drawn       ## the same comparison, as on a CPU without AVX-512
	$(COMPARED) ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(NBVAL)

test-two-threads: drawn     ## the same comparison with two threads, so one notebook at a time
	$(COMPARED) OMP_NUM_THREADS=2 $(NBVAL) -n 1

test-browser: drawn         ## run the notebooks in JupyterLab in a real browser, if Chromium is there
	$(BIN)/python -m pytest tests/browser

faults: drawn               ## kill, damage and fill up for some minutes, and count what the checkpoints survived
	PYTHONPATH=tests $(COMPARED) $(BIN)/python -W ignore::UserWarning -m faults

notebooks: drawn            ## run every notebook as the tests do and save its outputs
	$(COMPARED) $(BIN)/python notebooks/maintain.py run
	$(BIN)/python notebooks/maintain.py figure

benchmark: $(VENV)/ready    ## the time that saving and loading take, against the plain ways
	$(BIN)/python benchmarks/checkpoints.py

bench: drawn                ## how fast the course's ways are, against the tutorial's and against a bare minimum
	$(BIN)/python benchmarks/speed.py

bench-environment:          ## how long a fresh environment takes by uv, against pip alone: some minutes, 3 GB twice
	$(PYTHON) benchmarks/environment.py

lessons-on-photos: drawn    ## which way wins, on drawn images and on photos: the table in data/README.md
	$(BIN)/python benchmarks/conclusions.py

# From nothing each time: a page also changes when the package does.
site: $(VENV)/ready         ## the course as a website: open build/site/index.html
	rm -rf build/site
	$(BIN)/python -m sphinx --quiet --fresh-env --fail-on-warning --keep-going -c docs -d build/doctrees . build/site

badges:                     ## point every link at a fork: make badges REPO=owner/name
	$(PYTHON) notebooks/maintain.py badges $(REPO)

openings: $(VENV)/ready      ## write the badges and the set-up cell into every notebook
	$(BIN)/python notebooks/maintain.py openings

times: $(VENV)/ready         ## count how long each notebook takes to read, and how much of what it prints is True or False
	$(BIN)/python notebooks/maintain.py times

lint: $(VENV)/ready
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

# Draw the images once, before two notebooks want them at the same time.
.PHONY: drawn
drawn: $(VENV)/ready
	@$(COMPARED) $(BIN)/python -c "from course_utils.data import find_images; find_images()"

# An environment that was moved, or whose Python is gone, is not ready whatever its date.
ifneq ($(shell { $(BIN)/python -P -c 'import course_utils'; } >/dev/null 2>&1 || echo broken),)
.PHONY: $(VENV)/ready
endif
$(VENV)/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c '' 2>/dev/null || { echo "There is no $(PYTHON): install Python 3.11 or newer from python.org, or name yours: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) make_environment.py $(VENV) $(VERSIONS)
