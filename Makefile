# make demo      raw people -> shards -> pre-training -> retrieval numbers -> fine-tuning -> report
# make test      the tests; make test-all adds the slow ones, among them every command of the README
# make lint      ruff and mypy
# VENV=DIR reuses an environment, PYTHON=python3.12 makes a new one with it.

VENV ?= .venv
PYTHON ?= python3
export PATH := $(abspath $(VENV))/bin:$(PATH)

SETUP := $(VENV)/.person-pretrain
DEMO_SETS := pretrain_110k luperson_t syncpr cuhk_pedes ufine6926
DEMO_SHARDS := $(DEMO_SETS:%=data/shards/%/dataset.json)
PEOPLE_pretrain_110k := 1000
PEOPLE_luperson_t := 4000
PEOPLE_syncpr := 1200
PEOPLE_cuhk_pedes := 1000
PEOPLE_ufine6926 := 1200

.PHONY: setup demo demo-data test test-slow test-all lint clean
.SECONDARY:

setup: $(SETUP)
$(SETUP): pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Two at a time: drawing and packing use one core each.
demo-data: $(SETUP)
	$(MAKE) --no-print-directory -j2 $(DEMO_SHARDS)
data/raw/%:
	sharding synth --layout $* --people $(PEOPLE_$*) --out $@ --seed 0
data/shards/%/dataset.json: | data/raw/%
	sharding pack --source $* --input data/raw/$* --out data/shards/$*
	sharding tokenize --data data/shards/$*

demo: demo-data
	cluster head -- ray job submit --working-dir . -- \
	    python -m pretrain.run --config pretrain/recipes/demo.yaml \
	        --data.root $(CURDIR)/data/shards --run.dir $(CURDIR)/runs/demo
	pretrain export --run runs/demo --out runs/demo/export
	finetune evaluate --data data/shards/cuhk_pedes --weights runs/demo/export --untrained --out runs/demo/results.json
	finetune ablate --benchmark ufine6926 --data data/shards --init runs/demo --config finetune/recipes/demo.yaml \
	    --methods cfam-scratch,clip,cfam --jobs 2 --out runs/demo-finetune
	finetune report runs/demo-finetune/cfam/seed-0 --html runs/demo-finetune/report.html

test: $(SETUP)
	python -m pytest -m "not slow"
test-slow: $(SETUP)
	python -m pytest -m slow
test-all: test test-slow
lint: $(SETUP)
	ruff check .
	ruff format --check .
	mypy

clean:
	rm -rf data runs
