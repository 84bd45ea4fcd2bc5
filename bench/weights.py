"""SmolLM2-135M-Instruct as safetensors for vLLM, made from the GGUF file that the embedded engine uses; no hub.

python -m bench.weights FOLDER
"""

import sys
from pathlib import Path

from synthmill.tasks.engines.gguf import find_weights


def smollm2(folder: Path) -> Path:
    """The folder, filled once (269 MB, some 20 s)."""
    if (folder / "config.json").exists():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = find_weights("smollm2")
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
    print(smollm2(Path(sys.argv[1])))
