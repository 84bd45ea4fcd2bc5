#!/usr/bin/env bash
# OpenRLHF, SFT with --data.multiturn: with a chat template that drops earlier thinking the loss mask is displaced.
#
# SFTDataset finds where each answer stands by rendering the conversation up to it, as if nothing followed. The text that
# is trained on is the whole conversation, rendered once. Templates of models that think (Qwen 3, DeepSeek R1, ...) leave
# the thinking out of every answer but the last, so the whole is shorter than its beginnings were, and every range but
# the last ones is too long and too late: the loss covers headers and questions of the user and misses what it was
# for, or lies behind the end of the text. No row is refused and nothing is said; a conversation without thinking is right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" --disable-pip-version-check install --quiet "$@"; }
pip torch==2.13.0+cpu 2>/dev/null || pip torch==2.13.0
pip transformers==5.15.0 datasets==5.2.0 accelerate==1.15.0 pylatexenc==2.10 jinja2==3.1.6
pip --no-deps openrlhf==0.11.2
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import sys
from importlib.metadata import version
from types import SimpleNamespace

from datasets import Dataset
from openrlhf.datasets import SFTDataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

print("openrlhf", version("openrlhf"))
THINKING_MODEL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if not loop.last else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
special, alphabet = ["<|im_start|>", "<|im_end|>"], pre_tokenizers.ByteLevel.alphabet()
bpe.train_from_iterator([], trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False))
tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|im_end|>")
tokenizer.chat_template = THINKING_MODEL
data = SimpleNamespace(input_key="messages", output_key=None, apply_chat_template=True)
strategy = SimpleNamespace(args=SimpleNamespace(data=data))


def under_loss(thinking: str) -> str:
    chat = [
        {"role": "user", "content": "What is 2 + 3?"},
        {"role": "assistant", "content": f"{thinking}It is five."},
        {"role": "user", "content": "And 3 + 4?"},
        {"role": "assistant", "content": f"{thinking}It is seven."},
    ]
    rows = SFTDataset(Dataset.from_list([{"messages": chat}]), tokenizer, 512, strategy, num_processors=1, multiturn=True)
    tokens, _, mask = rows[0]
    return tokenizer.decode([token for token, counts in zip(tokens[0][1:], mask[0][:-1]) if counts])


plain, thinking = under_loss(""), under_loss("<think>Let me see, that is a sum.</think>")
print("without thinking, under the loss:", repr(plain))
print("with thinking, under the loss:   ", repr(thinking))
unchanged = "And 3 + 4?" in thinking and "3 + 4" not in plain and "five" in plain
sys.exit(0 if unchanged else "OpenRLHF's behaviour has changed: the mask follows the answers")
PYTHON
