#!/usr/bin/env bash
# axolotl, preference pairs with `type: chat_template.default`: a short answer comes with pieces of the chat template.
#
# The prompt strategy renders [{user: "[[dummy_message]]"}, answer] with the chat template, looks for the answer's text
# with str.find, and keeps what follows. An answer that also stands in the template's own text before it is found there:
# "a" in "<|im_start|>", "user" in the header, "A" in the system message that a template adds ("... by Alibaba Cloud").
# What is then compared with the other answer begins inside a header, and holds the dummy message. Answers of one letter
# are what multiple-choice questions have. Nothing is said; longer answers of the same file are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" --disable-pip-version-check install --quiet "$@"; }
pip torch==2.13.0+cpu 2>/dev/null || pip torch==2.13.0
pip transformers==5.16.1 datasets==4.8.4 accelerate==1.13.0 colorama==0.4.6 addict==2.4.0 jinja2==3.1.6
pip --no-deps axolotl==0.19.0
AXOLOTL_DO_NOT_TRACK=1 "$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

from axolotl.prompt_strategies.dpo.chat_template import default
from axolotl.utils.dict import DictDefault
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

print("axolotl", version("axolotl"))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), eos_token="<|im_end|>")
settings = {"chat_template": "chatml", "datasets": [{"type": "chat_template.default", "field_messages": "prompt"}]}
transform, _ = default(DictDefault(settings))


def answer(text: str) -> str:
    row = {
        "prompt": [{"role": "user", "content": "a) or b)?"}],
        "chosen": [{"role": "assistant", "content": text}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    return transform(row, tokenizer=tokenizer)["chosen"]


for text in ("a", "user", "the first"):
    print(f"{text!r:12} becomes {answer(text)!r}")
unchanged = "[[dummy_message]]" in answer("a") and answer("the first") == "the first<|im_end|>"
sys.exit(0 if unchanged else "axolotl's behaviour has changed: a short answer no longer brings the template with it")
PYTHON
