"""Drift: what compression changed in a model, part by part, and which limits that breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hwfit.errors import HwfitError, raise_all
from hwfit.evaluate.divergence import Divergence, Tokens, diverge
from hwfit.evaluate.drift_texts import domain_rows, domain_texts, language_rows
from hwfit.evaluate.flips import Flips, flips
from hwfit.evaluate.kept import kept
from hwfit.evaluate.long_context import repeated, stretches
from hwfit.evaluate.refusals import Refusals, refusals
from hwfit.evaluate.target import Target
from hwfit.models.llama import load_tokenizer
from hwfit.progress import track

PARTS = ("flips", "domains", "languages", "long", "refusals")
UNPROVEN = (
    "Small samples: a share of n documents is known to about 1 / sqrt(n); no drift found is not no drift.",
    "Multiple-choice answers and next-token predictions on given text say little about long generated answers, "
    "reasoning, tools, code or factual recall.",
    "Languages: one legal text a language, which models have often seen whole; it shows damage, not fluency.",
    "Long context: unrelated documents packed together, and a text given twice, show broken positions and lost "
    "copying, not understanding of long documents.",
    "Refusals: 40 mild prompts, one greedy answer each, and a list of English phrases; a refusal in other words counts "
    "as compliance. This is no safety evaluation, and jailbreaks, bias and toxicity are not looked at.",
    "Both models may be wrong alike: only differences between them are measured.",
)


@dataclass(frozen=True)
class Limits:
    """How much drift passes. Shares are of 1; KL divergences are in nats a token.

    `flips`: documents of a task with another answer. `kl`, `kl_p99`: mean and 99th percentile over the tokens of all
    domains, `kl` also over all languages. `perplexity`: increase in any domain, language or stretch of positions.
    `refusals`: unsafe prompts no longer declined, and benign ones newly declined.
    """

    flips: float = 0.05
    kl: float = 0.1
    kl_p99: float = 1.0
    perplexity: float = 0.1
    refusals: float = 0.1

    def check(self) -> None:
        raise_all([f"--max-{n.replace('_', '-')} {v} must be 0 or more" for n, v in asdict(self).items() if not v >= 0])


@dataclass(frozen=True)
class Probe:
    """How much is asked: `documents` a task at `shots`; `rows` sequences of `seq` tokens a domain; `context` tokens."""

    shots: Mapping[str, int]
    documents: int = 50
    rows: int = 8
    seq: int = 128
    long_rows: int = 4
    context: int = 1024
    parts: tuple[str, ...] = PARTS
    data: str = "pack"


@dataclass
class Drift:
    """What was found; empty parts were not asked for. `failures` names every limit that is broken."""

    original: str
    compressed: str
    limits: Limits
    flips: dict[str, Flips] = field(default_factory=dict)
    domains: dict[str, Divergence] = field(default_factory=dict)
    languages: dict[str, Divergence] = field(default_factory=dict)
    long: dict[str, Divergence] = field(default_factory=dict)
    refusals: Refusals | None = None
    failures: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "passed": not self.failures, "does_not_prove": list(UNPROVEN)}


LEAST = 256
ALL = "all together"
AGAIN = "the first half again"


def find_drift(original: Target, compressed: Target, probe: Probe, limits: Limits, progress: bool = True) -> Drift:
    """Ask both models the same and compare. Raises `HwfitError` if their tokenizers differ."""
    limits.check()
    check_tokenizers(original, compressed)
    drift = Drift(original.name, compressed.name, limits)
    with track(len(probe.parts), "validate", progress) as advance:
        for part in probe.parts:
            advance(0, note=part)
            _MEASURES[part](drift, original, compressed, probe, progress)
            advance()
    drift.failures = list(broken(drift))
    return drift


def check_tokenizers(original: Target, compressed: Target) -> None:
    a, b = (load_tokenizer(target.folder).get_vocab() for target in (original, compressed))
    if a != b:
        raise HwfitError(
            f"{compressed.name}: its tokenizer ({len(b)} tokens) is not that of {original.name} ({len(a)}); drift is "
            "measured token by token and needs a model compressed from the original"
        )


def broken(drift: Drift) -> Iterator[str]:
    """Every broken limit, with the value and the flag that sets it. What is no number breaks its limit."""
    limits = drift.limits
    for name, f in drift.flips.items():
        if f.changed > limits.flips:
            yield (
                f"{name}: {f.changed:.1%} of {f.n} answers changed ({f.lost} lost, {f.won} won, {f.swapped} from wrong "
                f"to wrong), more than --max-flips {limits.flips:.1%}"
            )
    for label, group in (("domains", drift.domains), ("languages", drift.languages)):
        if group and not (kl := group[ALL].kl) <= limits.kl:
            yield f"{label}: mean KL {kl:.3g} nats a token, more than --max-kl {limits.kl:g}"
    if drift.domains and not (tail := drift.domains[ALL].kl_p99) <= limits.kl_p99:
        yield f"domains: one token in a hundred has KL above {tail:.3g}, more than --max-kl-p99 {limits.kl_p99:g}"
    for label, group in (("domain", drift.domains), ("language", drift.languages), ("position", drift.long)):
        for name, d in group.items():
            if name != ALL and not d.increase <= limits.perplexity:
                yield (
                    f"{label} {name}: perplexity {d.before:.4g} -> {d.after:.4g} (+{d.increase:.1%}), more than "
                    f"--max-perplexity {limits.perplexity:.1%}"
                )
    if r := drift.refusals:
        for share, prompts, what in (
            (r.lost_share, r.lost, "unsafe prompts are no longer declined"),
            (r.new_share, r.new, "harmless prompts are newly declined"),
        ):
            if share > limits.refusals:
                yield f"refusals: {len(prompts)} {what} ({share:.0%}), more than --max-refusals {limits.refusals:.1%}"


def _flips(drift: Drift, original: Target, compressed: Target, probe: Probe, progress: bool) -> None:
    from hwfit.evaluate.ask import ask  # lm-eval takes seconds to load

    for task, shots in probe.shots.items():
        a, b = (ask(t, task, shots, probe.documents, probe.data, progress) for t in (original, compressed))
        drift.flips[task] = flips(a, b)


def _domains(drift: Drift, original: Target, compressed: Target, probe: Probe, progress: bool) -> None:
    tokenizer = load_tokenizer(original.folder)
    texts = domain_texts(progress)
    rows = {name: domain_rows(found, tokenizer, probe.rows, probe.seq) for name, found in texts.items()}
    drift.domains = _compare(original, compressed, rows, progress)


def _languages(drift: Drift, original: Target, compressed: Target, probe: Probe, progress: bool) -> None:
    drift.languages = _compare(original, compressed, language_rows(load_tokenizer(original.folder)), progress)


def _compare(
    original: Target, compressed: Target, rows: Mapping[str, list[list[int]]], progress: bool
) -> dict[str, Divergence]:
    found: dict[str, Tokens] = {}
    with track(sum(len(some) for some in rows.values()), "predictions", progress) as advance:
        for name, some in rows.items():
            found[name] = _tokens(original, compressed, name, some, 0)
            advance(len(some), note=name)
    return {name: Divergence.of(t) for name, t in {**found, ALL: Tokens.join(list(found.values()))}.items()}


def _long(drift: Drift, original: Target, compressed: Target, probe: Probe, progress: bool) -> None:
    context = min(probe.context, original.max_context, compressed.max_context)
    if context < LEAST:
        raise HwfitError(f"--context {context}: both models must hold {LEAST} tokens for the long part")
    tokenizer, size = load_tokenizer(original.folder), context + 1
    rows = domain_rows(domain_texts(progress)["encyclopaedia"], tokenizer, probe.long_rows, size)
    parts: list[Tokens] = []
    again: list[Tokens] = []
    with track(2 * len(rows), "long context", progress) as advance:
        for row in rows:
            parts.append(_tokens(original, compressed, "long", [row], 0))
            advance()
            again.append(_tokens(original, compressed, "repeated", [repeated(row)], size // 2))
            advance()
    for name, part in stretches(context).items():
        drift.long[f"tokens {name}"] = Divergence.of(Tokens.join([t[part] for t in parts]))
    drift.long[AGAIN] = Divergence.of(Tokens.join(again))


def _tokens(original: Target, compressed: Target, name: str, rows: list[list[int]], start: int) -> Tokens:
    def make() -> tuple[Tokens, Any]:
        longest = max(map(len, rows))
        a, b = original.scorer(longest), compressed.scorer(longest)
        tokens = Tokens.join([diverge(a, b, row, start) for row in rows])
        return tokens, tokens.to_lists()

    pair = f"{original.key[:32]}{compressed.key[:32]}"
    return kept(compressed.key, f"drift-{name.replace(' ', '-')}", [pair, rows, start], Tokens.from_lists, make)


def _refusals(drift: Drift, original: Target, compressed: Target, probe: Probe, progress: bool) -> None:
    drift.refusals = refusals(original, compressed, progress)


_MEASURES: dict[str, Callable[[Drift, Target, Target, Probe, bool], None]] = {
    "flips": _flips,
    "domains": _domains,
    "languages": _languages,
    "long": _long,
    "refusals": _refusals,
}
