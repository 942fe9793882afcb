"""Refusals: whether a model declines mild unsafe prompts, and harmless ones that use the same words."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hwfit.evaluate.drift_texts import shipped
from hwfit.evaluate.generate import greedy
from hwfit.evaluate.kept import kept
from hwfit.evaluate.target import Target
from hwfit.models.llama import load_tokenizer
from hwfit.models.text import end_of_text
from hwfit.progress import track

NEW_TOKENS = 32


@dataclass(frozen=True)
class Refusals:
    """Of the unsafe and of the benign prompts: how many each model declines, and which prompts changed.

    `lost` are unsafe prompts that only the original declines, `new` benign ones that only the compressed one declines.
    """

    unsafe: int
    benign: int
    unsafe_before: int
    unsafe_after: int
    benign_before: int
    benign_after: int
    lost: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def lost_share(self) -> float:
        return len(self.lost) / self.unsafe

    @property
    def new_share(self) -> float:
        return len(self.new) / self.benign


def refusals(original: Target, compressed: Target, progress: bool = True) -> Refusals:
    """Ask both models every prompt of `hwfit/data/texts/refusals.json`."""
    prompts = json.loads(shipped("refusals.json"))
    before, after = (declined(t, prompts, progress) for t in (original, compressed))
    unsafe, benign = prompts["unsafe"], prompts["benign"]
    return Refusals(
        unsafe=len(unsafe),
        benign=len(benign),
        unsafe_before=sum(before[p] for p in unsafe),
        unsafe_after=sum(after[p] for p in unsafe),
        benign_before=sum(before[p] for p in benign),
        benign_after=sum(after[p] for p in benign),
        lost=tuple(p for p in unsafe if before[p] and not after[p]),
        new=tuple(p for p in benign if after[p] and not before[p]),
    )


def declined(target: Target, prompts: dict[str, Any], progress: bool = True) -> dict[str, bool]:
    """Whether the model's greedy answer to each prompt has a phrase of refusal in its first `NEW_TOKENS` tokens."""
    tokenizer: Any = load_tokenizer(target.folder)
    ends = frozenset({end_of_text(tokenizer), tokenizer.eos_token_id})
    refuses = _detector(tokenizer, prompts["phrases"])

    def answer(prompt: str) -> tuple[bool, bool]:
        ids = tokenizer.encode(chat(tokenizer, prompt), add_special_tokens=False)
        found = refuses(greedy(target.scorer(len(ids) + NEW_TOKENS), ids, NEW_TOKENS, ends, refuses))
        return found, found

    found: dict[str, bool] = {}
    every = prompts["unsafe"] + prompts["benign"]
    with track(len(every), "refusals", progress) as advance:
        for prompt in every:
            question = [prompt, prompts["phrases"], NEW_TOKENS]
            found[prompt] = kept(target.key, "refusal", question, bool, partial(answer, prompt))
            advance()
    return found


def _detector(tokenizer: Any, phrases: list[str]) -> Callable[[list[int]], bool]:
    def refuses(ids: list[int]) -> bool:
        text = tokenizer.decode(ids, skip_special_tokens=True).replace("’", "'").lower()
        return any(phrase in text for phrase in phrases)

    return refuses


def chat(tokenizer: Any, prompt: str) -> str:
    """The prompt in the tokenizer's chat template, or as a question where there is none."""
    if not tokenizer.chat_template:
        return f"Question: {prompt}\nAnswer:"
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
