"""Reports of usage under every provider's names, and what tokens cost."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from synthmill.schemas.bill import added_up, count_text, money_text, tokens_in, tokens_out, wasted
from synthmill.schemas.budget import BudgetSettings, Price, Usage, usage_of
from synthmill.schemas.usage import COUNTERS, Facts, Tokens, counters_of, reported_tokens, tokens_of

REPORTS: list[tuple[dict[str, Any], Tokens | None]] = [
    ({"prompt_tokens": 20, "completion_tokens": 7, "total_tokens": 27}, Tokens(20, 7)),
    (  # OpenAI
        {
            "prompt_tokens": 1200,
            "completion_tokens": 300,
            "total_tokens": 1500,
            "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 256, "accepted_prediction_tokens": 0},
        },
        Tokens(1200, 300, 1024, 0, 256),
    ),
    (
        {
            "prompt_tokens": 1200,
            "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 1100},
        },
        Tokens(1200, 3, 0, 1100),
    ),
    (  # its Responses
        {
            "input_tokens": 50,
            "output_tokens": 9,
            "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 5},
            "output_tokens_details": {"reasoning_tokens": 4},
            "total_tokens": 59,
        },
        Tokens(50, 9, 40, 5, 4),
    ),
    (  # vLLM: null where nothing was asked for
        {"prompt_tokens": 31, "completion_tokens": 8, "total_tokens": 39, "prompt_tokens_details": None},
        Tokens(31, 8),
    ),
    (
        {
            "prompt_tokens": 31,
            "completion_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 16, "created_cache_tokens": 12},
            "completion_tokens_details": {"reasoning_tokens": 6},
        },
        Tokens(31, 8, 16, 12, 6),
    ),
    (  # DeepSeek
        {
            "prompt_tokens": 100,
            "completion_tokens": 50,
            "total_tokens": 150,
            "prompt_cache_hit_tokens": 64,
            "prompt_cache_miss_tokens": 36,
            "completion_tokens_details": {"reasoning_tokens": 30},
        },
        Tokens(100, 50, 64, 0, 30),
    ),
    ({"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36, "completion_tokens": 5}, Tokens(100, 5, 64)),
    (  # Anthropic: caches beside the rest
        {
            "input_tokens": 10,
            "cache_read_input_tokens": 2000,
            "cache_creation_input_tokens": 300,
            "output_tokens": 40,
            "output_tokens_details": {"thinking_tokens": 25},
            "service_tier": "standard",
        },
        Tokens(2310, 40, 2000, 300, 25),
    ),
    ({"input_tokens": 10, "output_tokens": 4}, Tokens(10, 4)),
    (  # a proxy: OpenAI's names, and Anthropic's within them
        {
            "prompt_tokens": 2310,
            "completion_tokens": 40,
            "cache_read_input_tokens": 2000,
            "cache_creation_input_tokens": 300,
        },
        Tokens(2310, 40, 2000, 300),
    ),
    (  # Gemini: thinking beside the rest
        {
            "promptTokenCount": 100,
            "cachedContentTokenCount": 60,
            "candidatesTokenCount": 20,
            "thoughtsTokenCount": 70,
            "toolUsePromptTokenCount": 5,
            "totalTokenCount": 195,
        },
        Tokens(105, 90, 60, 0, 70),
    ),
    ({"prompt_token_count": 9, "candidates_token_count": 2, "thoughts_token_count": None}, Tokens(9, 2)),
    (  # Bedrock
        {"inputTokens": 10, "outputTokens": 4, "cacheReadInputTokens": 100, "cacheWriteInputTokens": 20},
        Tokens(130, 4, 100, 20),
    ),
    (  # a server whose sum says that thinking is beside the rest
        {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 45,
            "completion_tokens_details": {"reasoning_tokens": 30},
        },
        Tokens(10, 35, 0, 0, 30),
    ),
    ({"prompt_tokens": 10.0, "completion_tokens": 5.5}, Tokens(10, 0)),
    ({"prompt_tokens": -3, "completion_tokens": 1 << 63}, Tokens(0, 0)),
    ({"prompt_tokens": True, "completion_tokens": "7"}, Tokens(0, 0)),
    ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": [1]}, Tokens(5, 2)),
    ({"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 9}}, Tokens(5, 2, 5)),
    ({"seconds": 3}, None),
    ({}, None),
]


@pytest.mark.parametrize(("usage", "tokens"), REPORTS)
def test_reports_are_read_under_each_providers_names(usage: dict[str, Any], tokens: Tokens | None) -> None:
    assert reported_tokens(usage) == tokens


def test_answers_that_were_asked_together_share_a_report() -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 12, "completion_tokens_details": {"reasoning_tokens": 5}}
    assert tokens_of(20, 4, usage) == Tokens(20, 4, 0, 0, 5)  # the first answer
    assert tokens_of(0, 8, None) == Tokens(0, 8)
    messages = {"input_tokens": 3, "cache_read_input_tokens": 90, "output_tokens": 4}
    assert tokens_of(3, 4, messages) == Tokens(93, 4, 90)  # whatever of it the engine counted


def test_settings_of_today_cost_as_before() -> None:
    prices = BudgetSettings.model_validate({"prices": {"openai:*": {"prompt": 1, "completion": 2}}})
    counters = dict(zip(COUNTERS, counters_of(Tokens(1000, 500, 400, 100, 300), 1.0), strict=True))
    assert usage_of(prices, "openai:m", 1, counters) == Usage(requests=1, tokens=1500, money=0.002)
    assert usage_of(prices, "vllm:m", 1, counters).money == 0
    with pytest.raises(ValidationError, match="input"):
        BudgetSettings.model_validate({"prices": {"*": {"input": 1}}})


ANSWERS = st.builds(Tokens, *(st.integers(0, 10**7) for _ in range(2)), *(st.integers(0, 10**6) for _ in range(3))).map(
    lambda tokens: tokens._replace(prompt_tokens=tokens.prompt_tokens + sum(tokens[2:4]))
)
CENTS = st.integers(0, 10_000).map(lambda cents: cents / 100)


@given(
    answers=st.lists(st.tuples(ANSWERS, st.booleans()), max_size=30),
    prices=st.tuples(CENTS, CENTS, st.none() | CENTS, st.none() | CENTS, st.sampled_from([0.5, 0.25, 1.0])),
)
def test_a_bill_is_right_to_the_cent(answers: Any, prices: Any) -> None:
    """Against a bill that is added up apart: an answer at a time, in decimals."""
    price = Price(**dict(zip(("prompt", "completion", "cached", "cache_write", "batch"), prices, strict=True)))
    bill = Decimal(0)
    for tokens, in_batch in answers:
        prompt, completion, cached, cache_written, _ = map(Decimal, tokens)
        read, write, from_cache, to_cache, factor = (
            Decimal(str(prices[0] if number is None else number)) for number in prices
        )
        each = (prompt - cached - cache_written) * read + cached * from_cache + cache_written * to_cache
        bill += (each + completion * write) / 1_000_000 * (factor if in_batch else 1)
    tables = [zip(COUNTERS, counters_of(tokens, 0.1, Facts(batch=batch)), strict=False) for tokens, batch in answers]
    assert abs(Decimal(price.cost(added_up(map(dict, tables)))) - bill) < Decimal("0.00001")


def test_how_a_bill_is_said() -> None:
    facts = [Facts(), Facts(estimated=True), Facts(asked_again=True), Facts(repeated=True), Facts(batch=True)]
    tables = [
        dict(zip(COUNTERS, counters_of(Tokens(1000, 50, 600, 100, 20), 1.0, fact), strict=True)) for fact in facts
    ]
    total = added_up(tables)
    assert tokens_in(total) == "~5,000 (3,000 cached, 500 written to the cache)"
    assert tokens_out(total) == "~250 (100 thinking)" and count_text(tables[0], "completion_tokens") == "50"
    assert wasted({**total, "failed": 3}) == "1 asked again, 1 repeated, 3 failed" and wasted(tables[0]) == ""
    assert (total["wasted_completion_tokens"], total["batch"], total["batch_cached_tokens"]) == (100, 1, 600)
    assert [money_text(money) for money in (0, 0.00312, 1234.5)] == ["0.00", "0.0031", "1,234.50"]
