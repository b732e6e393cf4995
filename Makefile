# make alpaca   install into .venv if needed, then the quick start
# make data     rebuild alpaca_data.json from the recorded answers of the teacher, and check it
# make test     install into .venv if needed, then the checks and the tests
# make test-all the same with the tests marked slow

PYTHON ?= python3
BIN := .venv/bin

OUT := out/quick-start

.PHONY: alpaca data test test-all lint browser

alpaca: .venv/installed
	rm -rf $(OUT)
	@echo "== 1 of 5: generate a hundred tasks, from a local server that plays a teacher's recorded answers"
	$(BIN)/python -m data.build replay --num_instructions_to_generate 100 --output_dir $(OUT)/generated
	@echo "== 2 of 5: fine-tune a tiny LLaMA from random weights on alpaca_data.json"
	$(BIN)/python train.py --config configs/quick-start.yaml --data_path ./alpaca_data.json --output_dir $(OUT)/model
	@echo "== 3 of 5: publish it as a difference to the weights it started from"
	$(BIN)/python -m configs.make_tiny_llama base --output_dir $(OUT)/base
	$(BIN)/python weight_diff.py make_diff --path_raw $(OUT)/base --path_tuned $(OUT)/model --path_diff $(OUT)/diff --exact True
	@echo "== 4 of 5: recover it from base and difference"
	$(BIN)/python weight_diff.py recover --path_raw $(OUT)/base --path_diff $(OUT)/diff --path_tuned $(OUT)/recovered --test_inference False
	cmp $(OUT)/model/model.safetensors $(OUT)/recovered/model.safetensors && echo "The recovered model is identical, bit for bit."
	@echo "== 5 of 5: ask it"
	@printf '%s\n' "Name three colours of the rainbow." "Write a sentence about the sea." "What is the capital of France?" \
		| $(BIN)/python demo.py chat --model_name_or_path $(OUT)/recovered --max_new_tokens 60 --seed 0
	@echo
	@echo "A model of 3 million parameters shows that the machinery works, no more. For a real one:"
	@echo "  $(BIN)/torchrun --nproc_per_node=4 --master_port=29500 train.py --config configs/llama-7b.yaml \\"
	@echo "      --model_name_or_path <llama checkpoint and tokenizer> --data_path ./alpaca_data.json --output_dir <out>"
	@echo "To talk to the one just trained:"
	@echo "  $(BIN)/python demo.py web --model_name_or_path $(OUT)/model"

data: .venv/installed-dev
	$(BIN)/python -m data.build alpaca_data
	$(BIN)/python -m data.check report

test: .venv/installed-dev lint browser
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: .venv/installed-dev lint browser
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not gpu"

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

.venv/installed-dev: requirements-dev.txt requirements.txt | .venv/bin/python
	$(BIN)/pip install --quiet --requirement requirements-dev.txt
	@touch .venv/installed $@
