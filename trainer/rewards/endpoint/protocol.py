"""Chat completions as OpenAI-compatible servers speak them: prompts as requests, replies as numbers.

Pure. Owns how strict an answer must be. Source: OpenAI API reference, "Create chat completion"; vLLM's
documentation of its OpenAI-compatible server for `continue_final_message`.
"""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import msgspec
import numpy as np

from contracts.images import encode_jpeg
from trainer.rewards.vlm.question import Clip, Prompt

UNLISTED = -1000.0
"""Log-probability of a choice that is below the tokens which the server lists: nothing, but finite."""
MOST_WORDS = 16
"""Tokens of a written answer: "ANSWER: 5" has four; more is no answer."""


class _Top(msgspec.Struct):
    token: str
    logprob: float


class _Token(msgspec.Struct):
    token: str
    logprob: float
    top_logprobs: list[_Top] | None = None


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    logprobs: _Logprobs | None = None


Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
"""What a price can be reckoned with."""


class TokensUsed(msgspec.Struct):
    """What the server says it counted."""

    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class Completion(msgspec.Struct):
    """The part of a `chat.completion` object that is used. Fields that aren't named here are ignored."""

    choices: list[_Choice]
    usage: TokensUsed | None = None


@dataclass(frozen=True)
class Answered:
    """float64[K] log-probabilities of a prompt's choices. `unlisted`: choices that the server's list of
    tokens doesn't reach (`UNLISTED`); `written`: from the text alone, so the shares are 0 and 1."""

    log_probabilities: np.ndarray
    unlisted: tuple[str, ...] = ()
    written: bool = False


def request_body(
    model: str, prompt: Prompt, *, top: int, forced: bool, quality: int
) -> dict[str, Any]:
    """`top`: how many tokens' log-probabilities to ask for (0: none); `forced`: the answer's beginning is
    given and only what follows asked (vLLM); `quality` of the JPEGs."""
    content = [item for part in prompt.parts for item in _content(part, quality)]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "temperature": 0.0,
        "stream": False,
    }
    body["max_tokens"] = 2 if forced else MOST_WORDS
    if forced and prompt.answer:
        messages.append({"role": "assistant", "content": prompt.answer.rstrip()})
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if top:
        body |= {"logprobs": True, "top_logprobs": top}
    return body


def _content(part: str | Clip, quality: int) -> list[dict[str, Any]]:
    if isinstance(part, str):
        return [{"type": "text", "text": part}]
    return [
        {"type": "image_url", "image_url": {"url": _data_url(i, part.size, quality)}}
        for i in part.images
    ]


def _data_url(image: np.ndarray, size: tuple[int, int] | None, quality: int) -> str:
    if size is not None and size != (image.shape[1], image.shape[0]):
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image, quality)).decode()


def read_completion(data: bytes) -> Completion | str:
    """The reply, or what is wrong with it."""
    try:
        found = msgspec.json.decode(data, type=Completion)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return f"unparsable reply: {str(error)[:200]}"
    return found if found.choices else "unparsable reply: no choices"


def read_answer(completion: Completion, prompt: Prompt, *, forced: bool) -> Answered | str:
    """What the model said of the prompt's choices, or why that can't be told.

    With log-probabilities the answer must begin as the prompt says and go on with a choice, whose token is
    then read; without them it must be exactly that: a choice fished out of other words is a guess. With a
    forced beginning its first token is read, whatever the model made of it.
    """
    choice = completion.choices[0]
    if choice.message.refusal:
        return f"refused by the model: {choice.message.refusal[:80]!r}"
    text = choice.message.content or ""
    tokens = choice.logprobs.content if choice.logprobs is not None else None
    if forced and tokens:
        # Some tokenizers keep the space apart from a digit.
        first = 1 if not tokens[0].token.strip() and len(tokens) > 1 else 0
        return _listed(tokens[first], "", prompt.choices)
    begin = "" if forced else prompt.answer.strip()
    options = "|".join(sorted(map(re.escape, prompt.choices), key=len, reverse=True))
    found = re.match(rf"\s*{re.escape(begin)}\s*({options})(?!\w)", text)
    if found is None:
        return f"unparsable answer: {text[:80]!r}"
    if tokens:
        return _at(tokens, text, found.start(1), prompt.choices)
    if not forced and not re.fullmatch(r"\.?\s*", text[found.end() :]):
        return f"unparsable answer: {text[:80]!r}"
    row = np.full(len(prompt.choices), UNLISTED)
    row[prompt.choices.index(found.group(1))] = 0.0
    return Answered(row, written=True)


def _at(tokens: list[_Token], text: str, place: int, choices: tuple[str, ...]) -> Answered | str:
    """The listed log-probabilities of the token that holds character `place` of the answer."""
    if not "".join(t.token for t in tokens).startswith(text[: place + 1]):
        return "unparsable reply: the tokens are not those of the text"
    start = 0
    for token in tokens:
        if start + len(token.token) > place:
            break
        start += len(token.token)
    return _listed(token, token.token[: place - start], choices)


def _listed(token: _Token, lead: str, choices: tuple[str, ...]) -> Answered | str:
    """What is listed of a token that is a choice behind `lead`. Tokens that say the same choice (with a
    space, without, its beginning) count together."""
    shares = dict.fromkeys(choices, 0.0)
    listed = {
        t.token: t.logprob for t in [*(token.top_logprobs or ()), _Top(token.token, token.logprob)]
    }
    for name, logprob in listed.items():
        if (not math.isfinite(logprob) and logprob != -math.inf) or logprob > 1e-3:
            return f"unparsable reply: log-probability {logprob}"
        said = _choice_of(name.removeprefix(lead), choices)
        if said:
            shares[said] += math.exp(logprob)
    unlisted = tuple(name for name, share in shares.items() if share <= 0)
    row = [math.log(share) if share > 0 else UNLISTED for share in shares.values()]
    return Answered(np.minimum(np.array(row), 0.0), unlisted)


def _choice_of(token: str, choices: tuple[str, ...]) -> str:
    """The one choice that a token says or begins with; "" for none or several."""
    word = token.strip().rstrip(".")
    if word in choices:
        return word
    begun = [choice for choice in choices if word and choice.startswith(word)]
    return begun[0] if len(begun) == 1 else ""
