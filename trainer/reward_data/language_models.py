"""Language models that describe, propose and validate: an OpenAI-compatible server, or a local GGUF file.

Factories for a recipe's `describer`, `proposer` and `validator`. The client of the server is
`trainer.rewards.endpoint`'s; prompts and answers are `model_counterfactual`'s.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ConfigError, EntracteError, MissingDependency
from contracts.images import encode_jpeg
from trainer.reward_data.model_counterfactual import Ask


def endpoint(
    *,
    url: str,
    model: str,
    key_env: str = "",
    key_file: str = "",
    most_tokens: int = 512,
    deadline_s: float = 120.0,
    extra: Mapping[str, Any] | None = None,
) -> Ask:
    """`Ask` of a chat-completions server; `url` its base, `key_env` and `key_file` as of the reward model
    `endpoint`. The answer's call raises `EntracteError` where the server gives none until the deadline: the
    build stops there and goes on when it is run again, rather than lose commands unseen."""
    from trainer.rewards.endpoint.caller import Caller, Terms
    from trainer.rewards.endpoint.key import check_url, read_key

    key = read_key(key_env, key_file)
    caller = Caller(check_url(url, key), key, Terms(deadline_s=deadline_s), extra or {})

    def ask(prompt: str, pictures: Sequence[np.ndarray]) -> str:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(picture)}} for picture in pictures
        ]
        body = {
            "model": model,
            "messages": [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}],
            "temperature": 0.0,
            "max_tokens": most_tokens,
            "stream": False,
        }
        (reply,) = caller.ask([body])
        if isinstance(reply, str) or not reply.choices:
            raise EntracteError(
                f"language model '{model}' at {url} gave no answer",
                found=reply if isinstance(reply, str) else "no choices",
                remedy="run build-data again: it goes on where it was",
            )
        return reply.choices[0].message.content or ""

    return ask


def gguf(*, path: str, most_tokens: int = 256) -> Ask:
    """`Ask` of a text-only model in a GGUF file, by transformers on the CPU, without sampling: the same
    prompt gives the same answer. Refuses pictures. Raises `MissingDependency`, `ConfigError`."""
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError("GGUF model", expected=f"a file at {file}", found="nothing")
    try:
        import accelerate  # noqa: F401  what transformers loads it with
        import gguf as reader  # noqa: F401  what transformers reads it with
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise MissingDependency(
            "a GGUF model needs transformers, accelerate and gguf",
            found=str(error),
            remedy="pip install 'entracte[vlm,data]'",
        ) from error
    tokenizers: Any = AutoTokenizer
    models: Any = AutoModelForCausalLM
    tokenizer = tokenizers.from_pretrained(str(file.parent), gguf_file=file.name)
    model = models.from_pretrained(str(file.parent), gguf_file=file.name).eval()

    def ask(prompt: str, pictures: Sequence[np.ndarray]) -> str:
        if pictures:
            raise ConfigError(
                f"{file.name} reads text alone",
                remedy="use it as the proposer, without a describer",
            )
        said = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(
            said, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                max_new_tokens=most_tokens,
                do_sample=False,
                pad_token_id=tokenizer.eos_token_id,
            )
        answer = output[0, inputs["input_ids"].shape[1] :]
        return str(tokenizer.decode(answer, skip_special_tokens=True))

    return ask


def _data_url(picture: np.ndarray) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(picture, 90)).decode()
