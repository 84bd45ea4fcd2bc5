#!/usr/bin/env bash
# LLaMA-Factory, data sets in OpenAI's form (`formatting: openai`): the system message grows, arguments are encoded twice.
#
# The reader of this form ends every system message with a line of its own, "detailed thinking off", a switch of one
# family of models (Llama Nemotron), whatever model is trained; without a system message it makes one of it. And a
# call's arguments, which OpenAI's form has as a JSON text, are encoded as JSON once more: the model learns to call
# {"arguments": "{\"city\": ...}"} where the template's own instruction shows an object. Rows in its sharegpt form with
# the same content have neither.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" --disable-pip-version-check install --quiet "$@"; }
pip torch==2.13.0+cpu 2>/dev/null || pip torch==2.13.0
pip transformers==5.6.0 datasets==4.0.0 accelerate==1.11.0 omegaconf==2.4.0 jinja2==3.1.6
pip --no-deps llamafactory==0.9.5 peft==0.18.1 trl==0.24.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Seq2SeqTrainingArguments

sys.modules["torchaudio"] = types.ModuleType("torchaudio")  # imported for sound, which no row here has
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.hparams import DataArguments, ModelArguments

print("llamafactory", version("llamafactory"))
folder = Path(mkdtemp())
function = {"name": "weather", "arguments": json.dumps({"city": "Rome"})}
tool = {"type": "function", "function": {"name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}}}
rows = [
    {"messages": [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Which city is in Italy?"},
        {"role": "assistant", "content": "Rome"},
    ]},
    {"messages": [
        {"role": "user", "content": "Is it warm in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": function}]},
    ], "tools": [tool]},
]
for place, row in enumerate(rows):
    (folder / f"{place}.json").write_text(json.dumps([row]))
columns = {"messages": "messages", "tools": "tools"}
tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
        "observation_tag": "tool", "function_tag": "function_call", "system_tag": "system"}
entry = {"formatting": "openai", "columns": columns, "tags": tags}
info = {str(place): {**entry, "file_name": f"{place}.json"} for place in range(2)}
(folder / "dataset_info.json").write_text(json.dumps(info))
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
bpe.train_from_iterator([], trainers.BpeTrainer(special_tokens=["<|im_end|>"], initial_alphabet=alphabet, show_progress=False))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>")
model = ModelArguments(model_name_or_path=str(folder), cache_dir=str(folder))
training = Seq2SeqTrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[], log_level="error")


def read(place: int) -> str:
    data = DataArguments(dataset=str(place), dataset_dir=str(folder), template="qwen3_nothink")
    template = get_template_and_fix_tokenizer(tokenizer, data)
    out, sys.stdout = sys.stdout, sys.stderr
    row = get_dataset(template, model, data, training, stage="sft", tokenizer=tokenizer)["train_dataset"][0]
    sys.stdout = out
    return tokenizer.decode(row["input_ids"])


system, call = read(0), read(1).split("<tool_call>")[-1].split("</tool_call>")[0].strip()
print("system message:", repr(system.split("<|im_end|>")[0]))
print("call:          ", call)
unchanged = "Answer in one word.\ndetailed thinking off" in system and isinstance(json.loads(call)["arguments"], str)
sys.exit(0 if unchanged else "LLaMA-Factory's behaviour has changed: system messages and arguments come as they went in")
PYTHON
