# Each target does all of its own set-up. `make help` lists them.
PYTHON ?= python3
TOX := .tox/bootstrap/bin/tox
SUITE := .tox/suite/bin/python
SPLATGATE := $(SUITE) -m splatgate
IMAGE ?=
ARGS ?=
RECORDS ?= build
POLICY ?= staging

.PHONY: help image test-image test-gpu test-host test-trainer test faults lint replay stop-engine bench bench-trainer \
  pipeline push gate clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test-image: .tox/suite/made $(if $(IMAGE),,image)  ## build the trainer image, start and train it as SageMaker would, judge it
	@$(SPLATGATE) judge -n 2 $(if $(IMAGE),--image $(IMAGE)) $(ARGS)

test: .tox/suite/made  ## the suite's own tests: no engine, no torch
	@$(SUITE) -m pytest tests/unit -n auto --dist worksteal $(ARGS)

image: .tox/suite/made  ## build the trainer image (RELEASE=1: for T4, A10G and L4)
	@$(SPLATGATE) image

faults: .tox/suite/made  ## prove that the judge can say no
	@$(SPLATGATE) faults $(ARGS)
	@$(if $(ARGS),,$(SUITE) -m pytest tests/mutants -n 2)

# A replay ends with 3, since nothing on this machine was judged; where a verdict was reached, that is what was asked for.
JUDGED := import json, sys; r = json.load(open("build/replay/record.json")); sys.exit(3 if r["interrupted"] or r["errors"] or any(c["error"] for c in r["checks"]) else 0)
replay: .tox/suite/made  ## judge the recorded evidence again, with no engine
	@rm -f build/replay/record.json
	@$(SPLATGATE) judge --evidence tests/evidence/good --out build/replay $(ARGS) || { [ $$? -eq 3 ] && $(SUITE) -c '$(JUDGED)'; }

push: .tox/suite/made  ## push the image to a staging repository: make push TO=HOST/NAME
	@$(SPLATGATE) push --to '$(TO)' $(if $(IMAGE),--image $(IMAGE)) $(ARGS)

gate: .tox/suite/made  ## decide on the records of build/ under POLICY (staging), and promote with ARGS
	@$(SPLATGATE) gate $(RECORDS) --policy $(POLICY) $(ARGS)

pipeline: .tox/suite/made image  ## run the reference pipeline's training state here, to a .sog and an HTML viewer
	@$(SPLATGATE) pipeline pipeline/definition.json --run $(ARGS)

stop-engine: .tox/suite/made  ## stop the engine that make started, if it did
	@$(SPLATGATE) stop-engine

# Where the kernels do not compile the job says so: E_CUDA, the compiled step cannot be loaded.
test-gpu: .tox/gpu/made  ## the gpu lane, on a machine with a GPU, torch and gsplat
	@.tox/gpu/bin/python image/kernels/build.py || true
	@.tox/gpu/bin/python -m splatgate judge --lane gpu $(ARGS)

test-host: .tox/suite/made  ## the training host against a tiny probe image, on the engine (seconds a job)
	@$(SUITE) -m pytest tests/host -n 3 $(ARGS)

test-trainer: .tox/trainer/made  ## the trainer's own tests, with torch on the CPU
	@PYTHONPATH=image:image/tests .tox/trainer/bin/python -m pytest -c pytest.ini --noconftest image/tests $(ARGS)

lint: .tox/suite/made  ## ruff, mypy, and zizmor over the workflows
	@.tox/suite/bin/ruff check .
	@.tox/suite/bin/ruff format --check .
	@$(SUITE) -m mypy
	@.tox/suite/bin/zizmor --offline --quiet --no-progress .github

bench: .tox/bench/made  ## time the container lane, and the same facts by container-structure-test
	@.tox/bench/bin/python tests/bench/bench.py $(ARGS)

bench-trainer: .tox/trainer/made  ## train and time the trainer on this machine: ARGS="--scene DIR"
	@PYTHONPATH=image .tox/trainer/bin/python image/bench.py $(ARGS)

clean:  ## remove what make made here; `python -m splatgate clean` says what the engine holds
	rm -rf .tox build

# An environment is made when its locks change, and by one target at a time.
.tox/suite/made .tox/bench/made: requirements/suite.txt
.tox/bench/made: requirements/bench.txt
.tox/gpu/made: requirements/gpu.txt
.tox/trainer/made: image/tests/requirements.txt
.tox/%/made: tox.ini $(TOX)
	@echo 'setting up .tox/$*' >&2
	@$(TOX) run -q -e $* --notest >.tox/$*.log 2>&1 || { grep ERROR .tox/$*.log | tail -3 >&2; \
	  echo 'splatgate: .tox/$* cannot be made; is the package index in reach? see .tox/$*.log' >&2; exit 3; }
	@touch $@

# A pip that is older than Python's use of the system's certificates is told where they are.
$(TOX): export REQUESTS_CA_BUNDLE := $(or $(REQUESTS_CA_BUNDLE),$(CURL_CA_BUNDLE),$(SSL_CERT_FILE),$(firstword \
  $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt)))
$(TOX): requirements/tox.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "splatgate: Python 3.11 or newer is needed, this is %d.%d; name one: make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'splatgate: $(PYTHON) cannot make environments; apt-get install python3-venv' >&2; exit 3; }
	@echo 'setting up .tox' >&2
	@$(PYTHON) -m venv .tox/bootstrap
	@.tox/bootstrap/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/tox.txt \
	  || { echo 'splatgate: tox cannot be installed; is the package index in reach?' >&2; exit 3; }
	@touch $@
