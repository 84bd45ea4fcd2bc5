"""A chat model that needs no download: two layers, random weights, a tokenizer trained on the spot."""

from pathlib import Path
from typing import Any


def one_step(folder: Path) -> dict[str, Any]:
    """Arguments for any of TRL's trainers: a single step on the CPU."""
    return {
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "max_length": None,
    }


def make_tiny_model(folder: Path, template: str = "") -> Path:
    """A Qwen2 of two layers and a byte-level BPE tokenizer, saved to `folder`. template: another chat template, of a
    model that thinks.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the river carries light", "seven birds draw circles"] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    turn = "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    fast.chat_template = (
        "{% for m in messages %}"
        + turn
        + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    if template:
        fast.chat_template = template
        fast.add_tokens(["<think>", "</think>"])
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def tiny_reward_model(folder: Path, outputs: int) -> Path:
    """The same with random weights as a sequence classifier, in `folder`."""
    import torch
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    make_tiny_model(folder)
    config = Qwen2Config.from_pretrained(folder, num_labels=outputs)
    config.architectures = ["Qwen2ForSequenceClassification"]
    torch.manual_seed(1)
    Qwen2ForSequenceClassification(config).to(torch.bfloat16).save_pretrained(folder)
    return folder
