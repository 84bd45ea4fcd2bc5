"""A local server that speaks Anthropic's Messages API, and is strict about it."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from tests.json_server import Reply, json_server

FIELDS = {
    *("model", "max_tokens", "messages", "system", "temperature", "top_p", "top_k", "stop_sequences", "thinking"),
    *("tools", "tool_choice", "output_config", "metadata", "service_tier", "cache_control"),
}
BLOCKS = {
    "text": {"text"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
    "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content"},
}
KINDS = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}


class Refused(Exception):
    """A fault of a request. status: what the API answers it with."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class MessagesServer:
    """Answers with `answer(body, number)`, a message or a whole reply. requests: the bodies that were good."""

    key = "sk-ant-right"
    model = "claude-local"

    def __init__(self, answer: Callable[[dict[str, Any], int], dict[str, Any] | Reply] | None = None) -> None:
        self.answer = answer or (lambda body, number: message(f"answer {number}"))
        self.requests: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self.url = ""
        self._lock = threading.Lock()

    @property
    def spec(self) -> str:
        return f"anthropic:{self.model}@{self.url}"

    def reply(self, path: str, headers: Mapping[str, str], data: bytes) -> Reply:
        body = json.loads(data)
        try:
            if path != "/v1/messages":
                raise Refused(f"Not found: {path}", 404)
            if headers.get("x-api-key") != self.key:
                raise Refused("invalid x-api-key", 401)
            if not headers.get("anthropic-version"):
                raise Refused("anthropic-version: header is required")
            check(body)
            if body["model"] != self.model:
                raise Refused(f"model: {body['model']}", 404)
        except Refused as fault:
            self.refused.append(str(fault))
            return error(fault.status, KINDS[fault.status], str(fault))
        with self._lock:
            self.requests.append(body)
            answer = self.answer(body, len(self.requests) - 1)
        return answer if isinstance(answer, tuple) else (200, answer, {})


def message(*blocks: Any, stop: str = "end_turn", usage: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A message that the API answers with; a block may be a text."""
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MessagesServer.model,
        "content": [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks],
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": usage or {"input_tokens": 11, "output_tokens": 5},
        **more,
    }


def error(status: int, kind: str, text: str, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"type": "error", "error": {"type": kind, "message": text}}, named


def check(body: dict[str, Any]) -> None:
    """Raises Refused for what the API refuses."""
    if unknown := body.keys() - FIELDS:
        raise Refused(f"{min(unknown)}: Extra inputs are not permitted")
    if "max_tokens" not in body:
        raise Refused("max_tokens: Field required")
    check_turns(body["messages"])
    thinking = body.get("thinking", {"type": "disabled"})
    if thinking["type"] not in ("enabled", "adaptive", "disabled"):
        raise Refused("thinking.type: Input should be 'enabled', 'adaptive' or 'disabled'")
    if thinking["type"] == "enabled" and not 1024 <= thinking["budget_tokens"] < body["max_tokens"]:
        raise Refused("thinking.budget_tokens: at least 1024 and less than max_tokens")
    if "temperature" in body and "top_p" in body:
        raise Refused("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
    if thinking["type"] != "disabled" and body.get("temperature", 1) != 1:
        raise Refused("`temperature` may only be set to 1 when thinking is enabled")
    if not 0 <= body.get("temperature", 1) <= 1:
        raise Refused("temperature: Input should be less than or equal to 1")
    names = [tool["name"] for tool in body.get("tools", [])]
    for tool in body.get("tools", []):
        if tool["input_schema"].get("type") != "object":
            raise Refused("tools.0.input_schema.type: Input should be 'object'")
    choice = body.get("tool_choice", {"type": "auto"})
    if choice["type"] == "tool" and choice["name"] not in names:
        raise Refused("tool_choice.name: no such tool")
    if choice["type"] in ("tool", "any") and thinking["type"] != "disabled":
        raise Refused("Thinking may not be enabled when tool_choice forces tool use.")
    if json.dumps(body).count('"cache_control"') > 4:
        raise Refused("A maximum of 4 blocks with cache_control may be provided.")


def check_turns(turns: list[dict[str, Any]]) -> None:
    called: set[str] = set()
    for place, turn in enumerate(turns):
        expected = ("user", "assistant")[place % 2]
        if turn["role"] != expected:
            raise Refused(f"messages.{place}: roles must alternate, expected {expected}")
        blocks = [{"type": "text", "text": turn["content"]}] if isinstance(turn["content"], str) else turn["content"]
        if not blocks:
            raise Refused(f"messages.{place}: all messages must have non-empty content")
        answered = set()
        for block in blocks:
            has = block.keys() - {"type", "cache_control"}
            if block["type"] not in BLOCKS or not has <= BLOCKS[block["type"]]:
                raise Refused(f"messages.{place}.content: {block['type']} with {sorted(has)}")
            if block["type"] == "text" and not block["text"].strip():
                raise Refused(f"messages.{place}: text content blocks must be non-empty")
            if block["type"] == "tool_result":
                answered.add(block["tool_use_id"])
        if answered != called:
            raise Refused(f"messages.{place}: tool_use ids {sorted(called)} have results for {sorted(answered)}")
        called = {block["id"] for block in blocks if block["type"] == "tool_use"}
    if called:
        raise Refused("messages: tool_use without tool_result")


@contextmanager
def messages_server(server: MessagesServer) -> Iterator[MessagesServer]:
    """`with messages_server(MessagesServer(answer)) as server:`; its address is server.url."""
    with json_server(server.reply) as server.url:
        yield server
