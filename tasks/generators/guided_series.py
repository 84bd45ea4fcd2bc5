"""Series of prompts that are steered by logits: towards an expert model, away from the prompts before.

Source: docs/papers.md#steer. transformers has the arithmetic (classifier-free guidance) and runs the models.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
from pydantic import Field, model_validator

from synthmill.schemas.calls import Completion, Message
from synthmill.schemas.errors import Drop, InputError
from synthmill.schemas.hashing import child_id, digest
from synthmill.schemas.pools import Shots
from synthmill.schemas.rows import Dropped
from synthmill.tasks.frames import FrameStage, frame_schema
from synthmill.tasks.generators.failures import PromptSet
from synthmill.tasks.generators.self_rip import BEGIN, END, parse_prompt
from synthmill.tasks.prompts import load
from synthmill.tasks.scorers.reward_models import identity
from synthmill.tasks.texts.prompt_faults import check_prompt

Generate = Callable[[Sequence[Message], Sequence[Message], int], str]


class GuidedSeries(FrameStage):
    """Examples -> up to `length` prompts, one after the other, drawn from guided probabilities:

    log p = log p_expert + expert x (log p_expert - log p_base), then plus away x (that - log p_negative), where p_base
    is another model's, and p_negative the expert's own if it is shown the series so far instead of the examples.

    A prompt that has a fault is left out; it is not asked for again. Drops, where none is left: no_prompts.
    """

    name: ClassVar = "guided_series"
    version: ClassVar = "2"
    needs: ClassVar = ("id", "examples", "number")
    adds: ClassVar = tuple(PromptSet.model_fields)
    embeds: ClassVar = True

    model: str = Field(
        exclude=True, description="a folder with weights and a tokenizer: the expert, tuned to the domain"
    )
    base: str = Field("", exclude=True, description="the model that it was tuned from; empty: no contrast")
    weights: str = Field("", description="filled in: what identifies the weights")
    expert: float = Field(0.5, ge=0, description="how far away from the base; ours")
    away: float = Field(0.5, ge=0, description="how far away from the series so far; ours")
    length: int = Field(8, ge=1)
    negatives: int = Field(8, ge=0)
    overlap: float = Field(0.7, gt=0, le=1)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(0.9, gt=0, le=1)
    max_tokens: int = Field(256, ge=1)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def with_weights(cls, values: Any) -> Any:
        """Raises InputError for a folder without a model."""
        if not isinstance(values, Mapping) or values.get("weights") or not values.get("model"):
            return values
        models = [str(values[name]) for name in ("model", "base") if values.get(name)]
        return {**values, "weights": " over ".join(map(weights_of, models))}

    def apply(self, frame: pl.DataFrame, store: Path) -> tuple[pl.DataFrame, list[Dropped]]:
        generate, rows, drops = self.opened() if frame.height else refuse, list[dict[str, Any]](), list[Dropped]()
        for row_id, examples, number in frame.select(self.needs).rows():
            shots = Shots(id=row_id, examples=tuple(examples), number=number)
            prompts, fault = self.series(shots, generate)
            if prompts:
                fields = {"prompt": prompts, "shown": examples, "group": row_id, "origin": ""}
                rows.append({"id": child_id(row_id, self.name), "parent_id": row_id, **fields})
            else:
                drops.append(Dropped(id=row_id, reason="no_prompts", detail=fault[:500]))
        return pl.DataFrame(rows, schema=frame_schema(PromptSet)), drops

    def series(self, row: Shots, generate: Generate) -> tuple[list[str], str]:
        """The prompts after some examples, and the last fault of one that was left out."""
        prompts, fault, template = list[str](), "", load("steer/guided")
        for place in range(self.length):
            positive = template.render(row=row)
            negatives = prompts[len(prompts) - min(self.negatives, len(prompts)) :]
            negative = template.render(row=row.model_copy(update={"examples": tuple(negatives)})) if negatives else ()
            text = generate(positive, negative, int.from_bytes(digest([self.seed, row.id, place], size=4)))
            try:
                prompts.append(
                    check_prompt(parse_prompt(Completion(text=text)), (*row.examples, *prompts), self.overlap)
                )
            except Drop as drop:
                fault = str(drop)
        return prompts, fault

    def opened(self) -> Generate:
        """What draws one text. Raises InputError where a model cannot be loaded."""
        return open_guided(
            self.model, self.base, (self.expert, self.away), (self.temperature, self.top_p, self.max_tokens)
        )


def weights_of(folder: str) -> str:
    """What identifies a model. Raises InputError where the folder has none."""
    if not (Path(folder).expanduser() / "config.json").is_file():
        raise InputError(f"{folder} holds no model; expected a folder with config.json, safetensors and a tokenizer")
    return identity(folder, None)


def refuse(*_: Any) -> str:
    raise Drop("no_rows")


@lru_cache(maxsize=1)
def open_guided(model: str, base: str, guidance: tuple[float, float], drawing: tuple[float, float, int]) -> Generate:
    """A function (messages, negative messages, seed) -> text, over models that are loaded once per process. The answer
    is begun with the first mark, and ends with the second. guidance: (expert, away); drawing: (temperature, top_p,
    max_tokens). Raises InputError.
    """
    import torch
    from transformers import AutoTokenizer, LogitsProcessorList
    from transformers import UnbatchedClassifierFreeGuidanceLogitsProcessor as Guidance

    tokenizer = AutoTokenizer.from_pretrained(Path(model).expanduser(), local_files_only=True)
    expert_model, base_model = load_causal(model), load_causal(base) if base else None
    if base_model and base_model.config.vocab_size != expert_model.config.vocab_size:
        raise InputError(f"{base} and {model} have other tokens; expected the model that {model} was tuned from")
    expert, away = guidance
    temperature, top_p, max_tokens = drawing

    def tokens_of(messages: Sequence[Message]) -> Any:
        chat = [message.model_dump() for message in messages]
        begun = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) + BEGIN
        return tokenizer(begun, add_special_tokens=False, return_tensors="pt").input_ids.to(expert_model.device)

    def generate(messages: Sequence[Message], negative: Sequence[Message], seed: int) -> str:
        ids = tokens_of(messages)
        guides = LogitsProcessorList()
        if base_model and expert:
            guides.append(Guidance(1 + expert, base_model, ids))
        if negative and away:
            guides.append(Guidance(1 + away, expert_model, tokens_of(negative)))
        torch.manual_seed(seed)
        with torch.inference_mode():
            output = expert_model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                logits_processor=guides,
                do_sample=True,
                temperature=temperature,
                top_p=top_p,
                top_k=0,
                max_new_tokens=max_tokens,
                stop_strings=[END],
                tokenizer=tokenizer,
                pad_token_id=tokenizer.eos_token_id,
            )
        return BEGIN + str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))

    return generate


def load_causal(folder: str) -> Any:
    """A causal language model from a folder, on a GPU where there is one. Raises InputError."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    on_gpu = torch.cuda.is_available()
    kind = torch.bfloat16 if on_gpu else torch.float32
    try:
        model = AutoModelForCausalLM.from_pretrained(Path(folder).expanduser(), dtype=kind, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load the model {folder}: {' '.join(str(error).split())[:300]}") from error
    return model.eval().to("cuda" if on_gpu else "cpu")
