"""A local chat server for tests and benches: OpenAI's protocol, deterministic answers, counts, failures on demand.

    python bench/chat_server.py --port 8123 --latency-ms 20

The answer is a function of the messages, the seed and the choice's index, so that a run can be compared with its
repetition: `--words` words, or the plainest value that satisfies the schema, or a numbered list or a verdict where the
request shows one. GET /stats tells what was asked; POST /set?forget=1 zeroes the counts, and POST
/set?latency_ms=20&sigma=0&fail_every=0&fail_from=0&fail_how=status&fail_status=500&retry_after= changes how it answers.
fail_every, fail_from: each n-th, all from the n-th on. fail_how: status (an error), hang, cut (half an answer),
malformed (no JSON), empty (no text), wrong (JSON that nobody asked for), filtered (half an answer, which a content
filter broke off), none (no choices), inside (an error with fail_status inside a 200). fail_on: requests with these
words. usage: plain, none (it is not reported) or detailed (with the total, cached and thinking tokens). thinks: text,
or the name of a field, where each answer has thinking. scores: plain, none or null (how prompt_logprobs are answered).
--root tells where the model's weights are, as vLLM does. busy_at, busy_s: from that request on, every one is refused
with 429 for so many seconds. same: whether requests are the same that have the same messages (messages), or only those
that are equal in everything (body). first_s and last_s in /stats: when the first request came and the last answer left,
monotonic.
"""

import argparse
import asyncio
import hashlib
import math
import os
import random
import re
import signal
import time
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httptools
import orjson
import uvloop

LIST = "\n1. ..."  # a request that shows how a numbered list begins is answered with one
FORM = " 1: ...\n"  # a request that shows lines with labels and numbers is answered with six of each
LABELS = re.compile(r"^(\w+) 1: \.\.\.$", re.MULTILINE)
RATINGS = "#### Output for Text"  # and one that shows a rating per text with these
VERDICT = "[RESULT]"  # and one that asks for a verdict from 1 to 5, or a letter, with that
LETTER, DIGIT, MARKS = "the letter A or B", "one digit", "<begin> ... </end>"  # and for one of these with it
VOCABULARY = ("river", "stone", "light", "field", "seven birds", "circle", "mill", "bridge", "quiet", "over", "and")


class Behaviour:
    """How the server behaves, and what it counted; one per process."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.latency_ms: float = options.latency_ms
        self.sigma = float(options.sigma)
        self.words: int = options.words
        self.fail_every = self.fail_from = 0
        self.fail_status = 500
        self.retry_after = self.fail_on = self.thinks = ""
        self.fail_how = "status"
        self.usage = self.scores = "plain"
        self.same = "body"
        self.busy_at, self.busy_s = 0, 1.0
        self.key: str = options.key
        self.context: int = options.context
        self.root: str = options.root
        self.forget()

    def forget(self) -> None:
        self.requests: dict[bytes, int] = {}
        self.total = self.failed = self.in_flight = self.most_in_flight = 0
        self.first_s = self.last_s = self.busy_until_s = 0.0

    def stats(self) -> dict[str, float]:
        repeated = sum(count - 1 for count in self.requests.values())
        return {
            "total": self.total,
            "unique": len(self.requests),
            "repeated": repeated,
            "failed": self.failed,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "first_s": self.first_s,
            "last_s": self.last_s,
            "pid": os.getpid(),
        }

    def is_busy(self) -> bool:
        if self.total == self.busy_at:
            self.busy_until_s = time.monotonic() + self.busy_s
        return time.monotonic() < self.busy_until_s

    def delay_s(self, body: dict[str, Any]) -> float:
        if not self.sigma:
            return self.latency_ms / 1000
        draw = random.Random(digest([body["messages"], body.get("seed")]))  # the same request always takes as long
        return self.latency_ms / 1000 * math.exp(self.sigma * draw.gauss(0, 1))


def digest(value: Any) -> bytes:
    return hashlib.blake2b(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), digest_size=16).digest()


def sentence(seed: bytes, words: int) -> str:
    draw = int.from_bytes(hashlib.blake2b(seed, digest_size=64).digest(), "big")
    return " ".join(VOCABULARY[(draw >> (n * 4 % 480)) % len(VOCABULARY)] for n in range(words))


def value_for_schema(schema: dict[str, Any], seed: bytes) -> Any:
    """A value that satisfies a JSON schema made of objects, arrays, strings, numbers and enumerations."""
    if "anyOf" in schema:
        return value_for_schema(schema["anyOf"][seed[0] % len(schema["anyOf"])], seed)
    if "enum" in schema:
        return schema["enum"][seed[0] % len(schema["enum"])]
    kind = schema.get("type", "string")
    if kind == "object":
        return {
            name: value_for_schema(inner, digest([seed.hex(), name]))
            for name, inner in schema.get("properties", {}).items()
        }
    if kind == "array":
        return [value_for_schema(schema["items"], digest([seed.hex(), n])) for n in range(schema.get("minItems", 2))]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0) + seed[0] % 5
    return f"you {sentence(seed, 8)}."[: schema.get("maxLength", 200)]  # as a system message does


def completion(body: dict[str, Any], words: int, report: str = "plain") -> dict[str, Any]:
    """The answer to a chat request. report: what it says of usage."""
    choices = []
    form = body.get("response_format") or {}
    question = body["messages"][-1]["content"]
    for index in range(body.get("n") or 1):
        seed = digest([body["messages"], body.get("seed"), index])
        if form.get("type") == "json_schema":
            text = orjson.dumps(value_for_schema(form["json_schema"]["schema"], seed)).decode()
        elif FORM in question:
            labels = dict.fromkeys(LABELS.findall(question))
            lines = [(label, n) for n in range(1, 7) for label in labels]
            text = "\n".join(f"{label} {n}: {sentence(digest([seed.hex(), label, n]), words)}" for label, n in lines)
        elif RATINGS in question:
            texts = [
                f"{RATINGS} {n}\nRating: {1 + digest([seed.hex(), n])[0] % 5}\nRationale: {sentence(seed, 8)}"
                for n in range(1, 1 + question.count(RATINGS))
            ]
            text = "\n\n".join(texts)
        elif LIST in question:
            text = "\n".join(f"{n}. {sentence(digest([seed.hex(), n]), words)}" for n in range(1, 11))
        elif MARKS in question:
            text = f"<begin> Tell me why {sentence(seed, words)} </end>"
        elif DIGIT in question:
            text = str(seed[0] % 10)
        elif LETTER in question and VERDICT not in question:
            text = "AB"[seed[0] % 2]
        else:
            text = sentence(seed, words)
        if VERDICT in question:
            text += f" {VERDICT} {'AB'[seed[0] % 2] if 'the letter' in question else 1 + seed[0] % 5}"
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
        }
        if body.get("logprobs"):
            own = text if len(text) == 1 else "1"
            others = [str(number) for number in range(1, 21) if str(number) != own]
            tokens = ["AB"[seed[0] % 2], "BA"[seed[0] % 2]] if LETTER in question else [own, *others]
            chances = [{"token": token, "logprob": -0.5 * n} for n, token in enumerate(tokens, 1)]
            choice["logprobs"] = {"content": [{**chances[0], "top_logprobs": chances[: body.get("top_logprobs", 1)]}]}
        choices.append(choice)
    answer = {"object": "chat.completion", "model": body.get("model"), "choices": choices}
    usage: dict[str, Any] = {"prompt_tokens": 20, "completion_tokens": words * len(choices)}
    if report == "detailed":
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
        usage |= {"prompt_tokens_details": {"cached_tokens": 8}, "completion_tokens_details": {"reasoning_tokens": 5}}
    return answer if report == "none" else {**answer, "usage": usage}


def prompt_logprobs(body: dict[str, Any], how: str = "plain") -> list[Any] | None:
    """The words of a chat and what stands between them, each with the logprob that model, words and place make."""
    chat = "".join(f"<{message['role']}>{message['content']}" for message in body["messages"])
    tokens = re.findall(r"\w+|\W", chat)
    if how == "none":
        return None
    entries: list[Any] = []
    for n, token in enumerate(tokens):
        draw = digest([body["model"], tokens[max(0, n - 3) : n + 1]])
        logprob = None if how == "null" else -(1 + draw[0]) / 64
        number = int.from_bytes(digest(token)[:2], "big")
        entries.append({str(number): {"logprob": logprob, "rank": 1, "decoded_token": token}} if n else None)
    return entries


def with_thinking(answer: dict[str, Any], how: str) -> dict[str, Any]:
    """An answer after a thought, between marks in the text, or in the field of that name. It holds what a careless
    reader would take for the answer.
    """
    for choice in answer["choices"]:
        message = choice["message"]
        thought = f'I could say {VERDICT} 2, or {{"turn": {{"say": "no"}}}}, to choice {choice["index"]}.'
        if how == "text":
            message["content"] = f"<think>\n{thought}\n</think>\n\n{message['content']}"
        else:
            message[how] = thought
    return answer


def as_chat(body: dict[str, Any]) -> dict[str, Any]:
    """A request for a raw completion, with its prompt as a message, too."""
    return {**body, "messages": [{"role": "user", "content": body["prompt"]}]}


def as_texts(answer: dict[str, Any]) -> dict[str, Any]:
    """An answer as raw completions write it."""
    choices = [{**choice, "text": choice["message"]["content"]} for choice in answer["choices"]]
    texts = [{name: value for name, value in choice.items() if name != "message"} for choice in choices]
    return {**answer, "object": "text_completion", "choices": texts}


class Connection(asyncio.Protocol):
    """One client; the least work per request, because the load test shares the machine with it."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.transport: Any = None
        self.parser = httptools.HttpRequestParser(self)
        self.keeps_alive = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_message_begin(self) -> None:
        self.url, self.body, self.key = b"", b"", ""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"authorization":
            self.key = value.decode().removeprefix("Bearer ")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        behaviour, url = self.behaviour, urlsplit(self.url.decode())
        self.keeps_alive = self.parser.should_keep_alive()
        if url.path.endswith("/chat/completions"):
            self.chat(orjson.loads(self.body))
        elif url.path.endswith("/completions"):
            self.chat(as_chat(orjson.loads(self.body)))
        elif url.path.endswith("/models"):
            card = {"id": "local-model", "object": "model"}
            self.send({"object": "list", "data": [{**card, "root": behaviour.root} if behaviour.root else card]})
        elif url.path == "/stats":
            self.send(behaviour.stats())
        elif url.path == "/set":
            for name, value in parse_qsl(url.query, keep_blank_values=True):
                if name == "forget":
                    behaviour.forget()
                else:
                    setattr(behaviour, name, type(getattr(behaviour, name))(value))
            self.send(behaviour.stats())
        else:
            self.send({"error": {"message": f"no such path {url.path}"}}, 404)

    def chat(self, body: dict[str, Any]) -> None:
        behaviour = self.behaviour
        behaviour.total += 1
        if behaviour.key and self.key != behaviour.key:
            return self.send({"error": {"message": f"Incorrect API key provided: {self.key}"}}, 401)
        if body.get("model") == "unknown":
            return self.send({"error": {"message": "the model `unknown` does not exist"}}, 404)
        if not body["messages"]:
            return self.send({"error": {"message": "messages: at least one is needed"}}, 400)
        size = sum(len(message["content"]) for message in body["messages"])
        if size > behaviour.context:
            message = (
                f"This model's maximum context length is {behaviour.context} characters, your messages have {size}"
            )
            return self.send({"error": {"message": message, "code": "context_length_exceeded"}}, 400)
        what = digest(body["messages"] if behaviour.same == "messages" else body)
        behaviour.requests[what] = behaviour.requests.get(what, 0) + 1
        behaviour.first_s = behaviour.first_s or time.monotonic()
        if behaviour.is_busy():
            behaviour.failed += 1
            return self.send({"error": {"message": "rate limit reached"}}, 429, "1")
        behaviour.in_flight += 1
        behaviour.most_in_flight = max(behaviour.most_in_flight, behaviour.in_flight)
        fails = bool(behaviour.fail_every) and behaviour.total % behaviour.fail_every == 0
        fails = fails or 0 < behaviour.fail_from <= behaviour.total
        fails = fails or (bool(behaviour.fail_on) and behaviour.fail_on in body["messages"][-1]["content"])
        asyncio.get_running_loop().call_later(behaviour.delay_s(body), self.reply, body, fails)
        return None

    def reply(self, body: dict[str, Any], fails: bool) -> None:
        self.behaviour.in_flight -= 1
        self.behaviour.last_s = time.monotonic()
        if not fails:
            answer = completion(body, self.behaviour.words, self.behaviour.usage)
            if "prompt" in body:
                return self.send(as_texts(answer))
            if "prompt_logprobs" in body:
                answer["prompt_logprobs"] = prompt_logprobs(body, self.behaviour.scores)
            return self.send(with_thinking(answer, self.behaviour.thinks) if self.behaviour.thinks else answer)
        self.behaviour.failed += 1
        failure = self.behaviour.fail_how
        if failure == "status":
            return self.send({"error": {"message": "failing as told"}}, self.behaviour.fail_status)
        if failure in ("empty", "wrong", "filtered"):
            answer = completion(body, self.behaviour.words)
            for choice in answer["choices"]:
                text = choice["message"]["content"]
                texts = {"empty": "", "wrong": '{"other": 1}', "filtered": text[: len(text) // 2]}
                choice["message"]["content"] = texts[failure]
                choice["finish_reason"] = "content_filter" if failure == "filtered" else "stop"
            return self.send(answer)
        if failure == "none":
            return self.send({"id": "x", "object": "chat.completion", "choices": [], "usage": {"prompt_tokens": 5}})
        if failure == "inside":
            return self.send({"error": {"message": "failing as told", "code": self.behaviour.fail_status}})
        if failure != "hang" and self.transport and not self.transport.is_closing():
            length = 17 if failure == "malformed" else 4000
            head = b"HTTP/1.1 200 -\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % length
            self.transport.write(head + b'{"choices": [{"me')
            if failure == "cut":
                self.transport.close()
        return None

    def send(self, value: Any, status: int = 200, wait: str = "") -> None:
        if self.transport is None or self.transport.is_closing():
            return
        data = orjson.dumps(value)
        wait = wait or self.behaviour.retry_after
        extra = f"retry-after: {wait}\r\n".encode() if wait and status != 200 else b""
        head = b"HTTP/1.1 %d -\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
        self.transport.write(head % (status, extra, len(data)) + data)
        if not self.keeps_alive:
            self.transport.close()


async def serve(options: argparse.Namespace) -> None:
    behaviour = Behaviour(options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(behaviour), "127.0.0.1", options.port, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    done = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, done.set)
    with suppress(TimeoutError):
        await asyncio.wait_for(done.wait(), options.seconds)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: any free one; the port is printed")
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--sigma", type=float, default=0, help="log-normal latencies with that median")
    parser.add_argument("--words", type=int, default=150)
    parser.add_argument("--key", default="", help="refuse every other key with 401")
    parser.add_argument("--context", type=int, default=1_000_000, help="characters it takes before it answers 400")
    parser.add_argument("--root", default="", help="where the weights are from, as /models tells it")
    parser.add_argument("--seconds", type=float, default=3600, help="end by itself after so long")
    uvloop.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
