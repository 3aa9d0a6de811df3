# Each target does all of its own set-up. `make help` lists them.
PYTHON ?= python3
TOX := .tox/bootstrap/bin/tox
RUN := $(TOX) run -q -e
IMAGE ?=
ARGS ?=
RECORDS ?= build
POLICY ?= staging

.PHONY: help image test-image test-gpu test-host test faults lint replay stop-engine bench pipeline push gate clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

test-image: $(TOX) $(if $(IMAGE),,image)  ## build the trainer image, start and train it as SageMaker would, judge it
	@$(RUN) suite -- judge -n 2 $(if $(IMAGE),--image $(IMAGE)) $(ARGS)

test: $(TOX)  ## the suite's own tests: no engine, no torch
	@$(RUN) unit -- $(ARGS)

image: $(TOX)  ## build the trainer image (RELEASE=1: for T4, A10G and L4)
	@$(RUN) suite -- image

faults: $(TOX)  ## prove that the judge can say no
	@$(RUN) suite -- faults $(ARGS)

replay: $(TOX)  ## judge the recorded evidence again, with no engine
	@$(RUN) suite -- judge --evidence tests/evidence/good --out build/replay $(ARGS)

push: $(TOX)  ## push the image to a staging repository: make push TO=HOST/NAME
	@$(RUN) suite -- push --to '$(TO)' $(if $(IMAGE),--image $(IMAGE)) $(ARGS)

gate: $(TOX)  ## decide on the records of build/ under POLICY (staging), and promote with ARGS
	@$(RUN) suite -- gate $(RECORDS) --policy $(POLICY) $(ARGS)

pipeline: $(TOX) image  ## run the reference pipeline's training state here, to a .sog and an HTML viewer
	@$(RUN) suite -- pipeline pipeline/definition.json --run $(ARGS)

stop-engine: $(TOX)  ## stop the engine that make started, if it did
	@$(RUN) suite -- stop-engine

test-gpu: $(TOX)  ## the gpu lane, on a machine with a GPU, torch and gsplat
	@$(RUN) gpu -- $(ARGS)

test-host: $(TOX)  ## the training host against a tiny probe image, on the engine (seconds a job)
	@$(RUN) host -- $(ARGS)

lint: $(TOX)  ## ruff, mypy, and zizmor over the workflows
	@$(RUN) lint

bench: $(TOX)  ## time the container lane, and the same facts by container-structure-test
	@$(RUN) bench-suite -- $(ARGS)

clean:  ## remove what make made here; images stay in the engine
	rm -rf .tox build

$(TOX): requirements/tox.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "splatgate: Python 3.11 or newer is needed, this is %d.%d; name one: make PYTHON=python3.12" % sys.version_info[:2])'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo 'splatgate: $(PYTHON) cannot make environments; apt-get install python3-venv' >&2; exit 3; }
	@echo 'setting up .tox' >&2
	@$(PYTHON) -m venv .tox/bootstrap
	@.tox/bootstrap/bin/pip install -q --disable-pip-version-check --require-hashes -r requirements/tox.txt
	@touch $@
