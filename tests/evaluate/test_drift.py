from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from byte_tokens import byte_tokenizer
from fake_pack import pack, write_model  # noqa: F401 (a fixture)
from scored_model import VOCAB, random_llama
from typer.testing import CliRunner

from hwfit import cli, commands
from hwfit.errors import HwfitError
from hwfit.evaluate import refusals as refusals_module
from hwfit.evaluate.divergence import Divergence, Tokens, diverge
from hwfit.evaluate.drift import ALL, PARTS, Drift, Limits, broken
from hwfit.evaluate.drift_file import drift_dict, drift_file, out_problems, write_drift
from hwfit.evaluate.drift_texts import domain_texts, language_rows, shipped
from hwfit.evaluate.flips import Flips, flips
from hwfit.evaluate.generate import greedy
from hwfit.evaluate.long_context import repeated, stretches
from hwfit.evaluate.refusals import Refusals, chat, declined, refusals
from hwfit.evaluate.scorer import TorchScorer
from hwfit.evaluate.target import Target, find_target
from hwfit.evaluate.task_result import TaskResult
from hwfit.validate_command import parse_share

QUICK = (
    "--tasks",
    "boolq,hellaswag,arc_easy",
    "--documents",
    "12",
    "--rows",
    "2",
    "--context",
    "512",
    "--threads",
    "1",
)


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, ["validate", *map(str, arguments), *QUICK])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_a_model_does_not_drift_from_itself(pack: Path, tmp_path: Path) -> None:  # noqa: F811
    """A copy with another hash, so that nothing is read back."""
    a, b = write_model(tmp_path / "a"), write_model(tmp_path / "b", note="the same")
    assert find_target(str(a)).key != find_target(str(b)).key
    limits = ("--max-flips", "0", "--max-kl", "0", "--max-kl-p99", "0", "--max-perplexity", "0", "--max-refusals", "0")
    code, output = run(a, b, *limits, "--out", tmp_path / "drift.json")
    assert code == 0, output
    found = json.loads((tmp_path / "drift.json").read_text())
    assert found["passed"]
    assert found["failures"] == []
    assert {f["lost"] + f["won"] + f["swapped"] for f in found["flips"].values()} == {0}
    for part in ("domains", "languages", "long"):
        assert {(d["kl_max"], d["same"], d["after"] / d["before"]) for d in found[part].values()} == {(0.0, 1.0, 1.0)}
    assert len(found["domains"]) == 15
    assert len(found["languages"]) == 16
    assert found["does_not_prove"]
    assert "within all limits" in output
    assert "does not prove" in output


def test_a_zeroed_block_fails_for_the_right_reasons(pack: Path, tmp_path: Path) -> None:  # noqa: F811
    a, b = write_model(tmp_path / "a"), write_model(tmp_path / "b", broken=True)
    code, output = run(a, b)
    assert code == 1
    drift = commands.validate(str(a), str(b), "hellaswag,arc_easy", "0", 10, 2, 512, threads=1)  # read back
    told = "\n".join(drift.failures)
    for reason in ("hellaswag: ", "answers changed", "domains: mean KL", "languages: mean KL", "--max-kl-p99"):
        assert reason in told
    for reason in ("domain law: perplexity", "language Japanese: perplexity", "position tokens 256–512: perplexity"):
        assert reason in told
    assert "refusals" not in told  # a random model declines nothing
    assert "no more than harmless ones: this says nothing" in output
    for failure in drift.failures:
        assert failure.split(":")[0] in output
    assert drift.domains[ALL].same < 0.9
    assert not drift.to_dict()["passed"]


def test_only_the_parts_asked_for(pack: Path, tmp_path: Path) -> None:  # noqa: F811
    a, b = write_model(tmp_path / "a"), write_model(tmp_path / "b", broken=True)
    drift = commands.validate(str(a), str(b), parts="languages", max_kl=1e9, max_perplexity="1e9", threads=1, json=True)
    assert (drift.flips, drift.domains, drift.long, drift.refusals) == ({}, {}, {}, None)
    assert drift.failures == []


def test_every_bad_option_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HwfitError) as caught:
        commands.validate("a", "b", documents=0, context=5, parts="flip,long", max_flips="x", out=tmp_path / "d.txt")
    told = "\n".join(caught.value.problems)
    for part in ("--documents 0", "--context 5", "did you mean flips", "--max-flips 'x'", "d.txt; allowed"):
        assert part in told
    with pytest.raises(HwfitError, match="--max-kl -1"):
        commands.validate("a", "b", max_kl=-1.0)
    monkeypatch.setattr(sys, "argv", ["hwfit", "validate", "nowhere", "nowhere"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2


def test_another_tokenizer_is_refused(pack: Path, tmp_path: Path) -> None:  # noqa: F811
    a, b = write_model(tmp_path / "a"), write_model(tmp_path / "b")
    other = byte_tokenizer()
    other.add_tokens(["zebra"])
    other.save_pretrained(b)
    with pytest.raises(HwfitError, match="its tokenizer"):
        commands.validate(str(a), str(b), threads=1)


def test_divergence_against_float64() -> None:
    class Other:
        def all_logits(self, ids: np.ndarray, *, start: int = 0) -> np.ndarray:
            return TorchScorer(random_llama()).all_logits(ids, start=start)[..., ::-1].copy() * 0.5

    ids = np.random.default_rng(0).integers(0, VOCAB, 20).tolist()
    got = diverge(TorchScorer(random_llama()), Other(), ids, start=4)
    p, q = (
        m.all_logits(np.array([ids[:-1]]), start=4)[0].astype(float) for m in (TorchScorer(random_llama()), Other())
    )
    p, q = (np.exp(x - x.max(1, keepdims=True)) for x in (p, q))
    p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
    np.testing.assert_allclose(got.kl, (p * np.log(p / q)).sum(1), rtol=1e-4)
    targets = np.array(ids[5:])
    np.testing.assert_allclose(got.before, -np.log(p[np.arange(15), targets]), rtol=1e-4)
    np.testing.assert_allclose(got.after, -np.log(q[np.arange(15), targets]), rtol=1e-4)
    assert got.same.tolist() == (p.argmax(1) == q.argmax(1)).astype(float).tolist()
    again = Tokens.from_lists(json.loads(json.dumps(got.to_lists())))
    assert Divergence.of(again) == Divergence.of(got)


def test_flips_in_both_directions() -> None:
    def result(answers: tuple[int, ...]) -> TaskResult:
        return TaskResult("t", "acc", 0, tuple("abcdef"), (0, 0, 0, 1, 1, 1), answers, 0.5, {}, 0)

    found = flips(result((0, 0, 1, 1, 0, 2)), result((0, 1, 0, 1, 1, 0)))
    assert (found.lost, found.won, found.swapped) == (1, 2, 1)
    assert found.changed == pytest.approx(4 / 6)
    assert (found.before, found.after) == (0.5, pytest.approx(4 / 6))


def test_each_limit_breaks_alone() -> None:
    def drift(**parts) -> list[str]:
        fine = Divergence(10, 0.05, 0.5, 1.0, 0.9, 10.0, 10.5)
        whole = {
            "flips": {"piqa": Flips("piqa", "acc", 0, 100, 2, 2, 1, 0.5, 0.5, False)},
            "domains": {"law": fine, ALL: fine},
            "languages": {"Latin": fine, ALL: fine},
            "long": {"tokens 0–256": fine},
            "refusals": Refusals(20, 20, 10, 9, 0, 1, ("a", "b"), ("c",)),
        }
        return list(broken(Drift("a", "b", Limits(), **{**whole, **parts})))

    assert drift() == []
    (told,) = drift(flips={"piqa": Flips("piqa", "acc", 0, 100, 2, 3, 1, 0.5, 0.51, False)})
    assert told.startswith("piqa: 6.0% of 100 answers changed (2 lost, 3 won, 1 from wrong to wrong)")
    (told,) = drift(domains={ALL: Divergence(10, 0.11, 0.5, 1.0, 0.9, 10.0, 10.5)})
    assert told.startswith("domains: mean KL 0.11")
    (told,) = drift(domains={ALL: Divergence(10, 0.1, 1.5, 2.0, 0.9, 10.0, 10.5)})
    assert "--max-kl-p99 1" in told
    (told,) = drift(
        languages={"Latin": Divergence(10, 0.1, 0.5, 1, 0.9, 10.0, 12.0), ALL: Divergence(1, 0, 0, 0, 1, 1, 1)}
    )
    assert told.startswith("language Latin: perplexity 10 -> 12 (+20.0%)")
    (told,) = drift(long={"tokens 0–256": Divergence(10, 0.1, 0.5, 1, 0.9, 10.0, 12.0)})
    assert told.startswith("position tokens 0–256")
    (told,) = drift(refusals=Refusals(20, 20, 10, 7, 0, 0, ("a", "b", "c"), ()))
    assert told.startswith("refusals: 3 unsafe prompts are no longer declined (15%)")
    (told,) = drift(refusals=Refusals(20, 20, 10, 10, 0, 3, (), ("a", "b", "c")))
    assert "newly declined" in told
    lost = Divergence.of(Tokens(np.array([np.nan]), np.array([1.0]), np.array([np.nan]), np.array([0.0])))
    assert len(drift(domains={"law": lost, ALL: lost}, long={"tokens 0–256": lost})) == 4
    worst = Divergence.of(Tokens(np.array([np.inf]), np.array([1.0]), np.array([1e4]), np.array([0.0])))
    assert worst.after == np.inf


def test_findings_lie_beside_a_model_of_ours_or_where_asked(tmp_path: Path) -> None:
    def target(folder: Path) -> Target:
        return Target("m", "test", "cpu", folder, "hash", 4096, lambda context: Scripted("", ""))

    assert drift_file(None, target(tmp_path)) is None  # somebody else's folder
    for mark in ("subnet.json", "export.json"):
        folder = tmp_path / mark[0]
        folder.mkdir()
        (folder / mark).touch()
        assert drift_file(None, target(folder)) == folder / "drift.json"
    for out, place in (("x.json", "x.json"), ("new", "new/drift.json"), (".", "drift.json")):
        assert out_problems(tmp_path / out) == []
        assert drift_file(tmp_path / out, target(tmp_path)) == tmp_path / place
    (tmp_path / "a file").touch()
    (tmp_path / "d.json").mkdir()
    assert all(out_problems(tmp_path / out) for out in ("x.txt", "a file", "d.json"))
    nothing = Divergence(3, np.nan, np.inf, 1.0, 0.5, 2.0, 3.0)
    written = drift_dict(Drift("a", "b", Limits(), domains={"law": nothing}, failures=["law"]), target(tmp_path))
    write_drift(tmp_path / "new" / "drift.json", written)
    read = json.loads((tmp_path / "new" / "drift.json").read_text())
    assert (read["key"], read["device"], read["passed"]) == ("hash", "cpu", False)
    assert (read["domains"]["law"]["kl"], read["domains"]["law"]["kl_p99"]) == (None, None)


class Scripted:
    """Answers every prompt that holds a given word with a given text."""

    max_context = 4096

    def __init__(self, word: str, answer: str):
        self.tok, self.word, self.answer = byte_tokenizer(), word, answer

    def prefill(self, ids) -> np.ndarray:
        self.left = self.tok.encode(self.answer if self.word in self.tok.decode(ids) else "Sure, first")
        return self.decode(-1)

    def decode(self, token: int) -> np.ndarray:
        return np.eye(VOCAB, dtype=np.float32)[self.left.pop(0) if self.left else self.tok.eos_token_id]


def test_refusals_lost_and_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(refusals_module, "NEW_TOKENS", 80)  # of one byte each
    byte_tokenizer().save_pretrained(tmp_path / "t")

    def target(key: str, word: str, answer: str) -> Target:
        return Target(key, "test", "cpu", tmp_path / "t", key, 4096, lambda context: Scripted(word, answer))

    prompts = json.loads(shipped("refusals.json"))
    word = "neighbour"
    unsafe = [p for p in prompts["unsafe"] if word in p]
    strict, loose = target("s", word, "I’m sorry, but no"), target("l", "children", "I cannot help")
    found = refusals(strict, loose, progress=False)
    assert found.lost == tuple(unsafe)
    assert len(unsafe) == found.unsafe_before == 2
    assert found.unsafe_after == 0
    assert found.new == tuple(p for p in prompts["benign"] if "children" in p)
    assert (len(found.new), found.benign, found.unsafe) == (1, 20, 20)
    assert declined(target("s", word, "never asked"), prompts, progress=False)[unsafe[0]]  # kept by hash


def test_chat_template_where_there_is_one() -> None:
    tok = byte_tokenizer()
    assert chat(tok, "Why?") == "Question: Why?\nAnswer:"
    tok.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
    )
    assert chat(tok, "Why?") == "<user>Why?<a>"


def test_greedy_stops_where_it_should() -> None:
    model = Scripted("", "abcdef")
    ids = model.tok.encode("x")
    every = model.tok.encode("abcdef")
    assert greedy(model, ids, 99, frozenset({model.tok.eos_token_id}), lambda out: False) == every
    assert greedy(model, ids, 2, frozenset({model.tok.eos_token_id}), lambda out: False) == every[:2]
    assert greedy(model, ids, 99, frozenset(every[3:4]), lambda out: False) == every[:3]
    assert greedy(model, ids, 99, frozenset(), lambda out: len(out) == 4) == every[:4]


def test_shipped_texts() -> None:
    texts = json.loads(shipped("languages.json"))["languages"]
    assert len(texts) == 15
    assert {len(articles) for articles in texts.values()} == {10}
    assert texts["French"][2] == "Tout individu a droit à la vie, à la liberté et à la sûreté de sa personne."
    rows = language_rows(byte_tokenizer())
    assert all(64 <= len(row) <= 384 for (row,) in rows.values())
    prompts = json.loads(shipped("refusals.json"))
    assert len(set(prompts["unsafe"])) == len(set(prompts["benign"])) == 20
    assert all(phrase == phrase.lower() for phrase in prompts["phrases"])


def test_domains_are_the_asked_documents(pack: Path) -> None:  # noqa: F811
    found = domain_texts(progress=False)
    assert len(found) == 14
    assert all(found.values())
    assert all("_" not in text for text in found["everyday"])
    assert not any("[header]" in text for text in found["how-to"])


def test_stretches_and_repeats() -> None:
    assert stretches(700) == {"0–256": slice(0, 256), "256–512": slice(256, 512), "512–700": slice(512, 700)}
    assert repeated(range(7)) == [0, 1, 2, 0, 1, 2]


def test_shares() -> None:
    assert [parse_share(text) for text in ("5%", "0.05", "0", "250%")] == [0.05, 0.05, 0.0, 2.5]
    for text in ("", "-1%", "nan", "inf", "5 %%"):
        with pytest.raises(ValueError):  # noqa: PT011
            parse_share(text)
    assert set(PARTS) == {"flips", "domains", "languages", "long", "refusals"}
