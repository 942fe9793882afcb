"""GGUF tokenizer: a byte-level BPE `tokenizer.json` as the metadata that llama.cpp rebuilds it from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType
from tokenizers import Tokenizer

from hwfit.errors import HwfitError, raise_all
from hwfit.files import parse_json, read_object

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {_WORDS % r"\p{N}{1,3}": "llama-bpe", _WORDS % r"\p{N}": "qwen2"}
"""How text is cut before merging, as a regular expression -> llama.cpp's name for it."""
_IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "pad": "pad_token_id"}


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp needs of a tokenizer; `tokens` has one entry for each row of the embedding."""

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    adds_bos: bool
    template: str | None = None

    def write(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        writer.add_token_merges(self.merges)
        adders = {"bos": writer.add_bos_token_id, "eos": writer.add_eos_token_id, "pad": writer.add_pad_token_id}
        for name, token in self.ids.items():
            adders[name](token)
        writer.add_add_bos_token(self.adds_bos)
        if self.template:
            writer.add_chat_template(self.template)


def read_vocabulary(folder: Path, config: Mapping[str, Any], size: int) -> Vocabulary:
    """The tokenizer in `folder` for an embedding of `size` rows.

    Raises `HwfitError` unless it is a byte-level BPE whose splitting of text llama.cpp has a name for.
    """
    path = folder / "tokenizer.json"
    try:
        raw = parse_json(path.read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(path))
        vocab: dict[str, int] = dict(raw["model"]["vocab"])
        merges = [m if isinstance(m, str) else " ".join(m) for m in raw["model"]["merges"]]
        added = {entry["content"]: (int(entry["id"]), bool(entry["special"])) for entry in raw["added_tokens"]}
    except Exception as error:  # the tokenizers library raises plain Exception
        raise HwfitError(
            f"{path}: not a byte-level BPE that GGUF export can read ({type(error).__name__}: {str(error)[:200]}); "
            "export with --format hf and convert that with llama.cpp's convert_hf_to_gguf.py"
        ) from error
    pre = pre_tokenizer(raw.get("pre_tokenizer") or {})
    tokens, types = [f"[PAD{i}]" for i in range(size)], [int(TokenType.UNUSED)] * size
    entries = {text: (i, TokenType.NORMAL) for text, i in vocab.items()}
    entries |= {text: (i, TokenType.CONTROL if s else TokenType.USER_DEFINED) for text, (i, s) in added.items()}
    problems = [
        f"{path}: token {i} ({text!r}) lies beyond the embedding's {size} rows; it is another model's tokenizer"
        for text, (i, _) in entries.items()
        if not 0 <= i < size
    ][:3]
    if pre is None:
        problems.append(
            f"{path}: its way of splitting text has no known name in llama.cpp (known here: "
            f"{', '.join(['gpt-2', 'smollm', *SPLITS.values()])}); export with --format hf and convert that with "
            "llama.cpp's convert_hf_to_gguf.py"
        )
    raise_all(problems)
    assert pre is not None
    for text, (i, kind) in entries.items():
        tokens[i], types[i] = text, int(kind)
    ids = {name: token for name, key in _IDS.items() if isinstance(token := _first(config.get(key)), int)}
    start = tokenizer.encode("a").ids[:1]
    return Vocabulary(pre, tokens, types, merges, ids, bool(start) and start[0] == ids.get("bos"), _template(folder))


def pre_tokenizer(found: Mapping[str, Any]) -> str | None:
    """llama.cpp's name for a `pre_tokenizer` of tokenizer.json, or None if it is not known here."""
    steps = list(found.get("pretokenizers", [found]))
    if not steps or steps[-1].get("type") != "ByteLevel" or steps[-1].get("add_prefix_space"):
        return None
    before, splits_itself = steps[:-1], steps[-1].get("use_regex", True)
    match before:
        case []:
            return "gpt-2" if splits_itself else None
        case [{"type": "Digits", "individual_digits": True}]:
            return "smollm" if splits_itself else None
        case [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}] if not splits_itself:
            return SPLITS.get(pattern)
    return None


def _first(value: Any) -> Any:
    """Of several end tokens the first."""
    return value[0] if isinstance(value, list) and value else value


def _template(folder: Path) -> str | None:
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    found = read_object(folder / "tokenizer_config.json").get("chat_template")
    return found if isinstance(found, str) else None
