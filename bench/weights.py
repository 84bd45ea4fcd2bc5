"""Weights as safetensors for vLLM and transformers, made from a GGUF file; no hub. Default: SmolLM2-135M-Instruct, as
the embedded engine uses it.

python -m bench.weights FOLDER [FILE.gguf]
"""

import sys
from pathlib import Path

from synthmill.tasks.engines.gguf import find_weights


def smollm2(folder: Path) -> Path:
    """The folder, filled once (269 MB, some 20 s)."""
    return safetensors(find_weights("smollm2"), folder)


def safetensors(file: Path, folder: Path) -> Path:
    """The folder with a GGUF file's weights in bf16, filled once."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.hf_quantizer, model.is_quantized = None, False
    model.__dict__.pop("quantization_method", None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    folder, *files = map(Path, sys.argv[1:])
    print(safetensors(files[0], folder) if files else smollm2(folder))
