"""`hwfit export` and `hwfit generate`: a searched subnet in other tools' formats, and text from a deployed one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hwfit.deploy.bundle import Bundle, load_bundle, quantise_bundle
from hwfit.deploy.card import model_card
from hwfit.deploy.exporters import Exported, export_bundle, find_exporter
from hwfit.deploy.folder import TOKENIZERS
from hwfit.deploy.generate import Generated
from hwfit.deploy.generate import generate as continue_text
from hwfit.deploy.origin import Origin
from hwfit.deploy.staging import BUNDLE
from hwfit.errors import HwfitError
from hwfit.files import read_object
from hwfit.models.llama import load_config, load_shape, load_tokenizer, load_weights, open_model
from hwfit.profiler.whole_models import open_model as open_deployed
from hwfit.progress import out_console
from hwfit.run_facts import facts_of
from hwfit.subnet import Subnet
from hwfit.workload import Workload


def export(
    folder: Path,
    out: Path | None = None,
    format: str = "onnx",
    nearest: bool = False,
    max_context: int = 512,
    model: str | None = None,
) -> Path:
    """Write the subnet in FOLDER in another tool's format, with its tokenizer and a model card; returns what to open.

    `nearest` writes the nearest subnet that the format holds where it cannot hold this one. `model` cuts a subnet that
    has no weights (a subnet.json) out of that model, quantised but not distilled. ONNX goes into FOLDER itself, the
    others into a folder of the format's name there, unless `out` says otherwise.
    """
    find_exporter(format)
    bundle, source = _bundle(folder, model)
    home = folder if folder.is_dir() else folder.parent
    target = out or (home if format == "onnx" and source == home else home / format)
    facts, origin = facts_of(home), Origin.of(source)

    def card(exported: Exported) -> str:
        return model_card(exported, origin, facts, bundle.subnet)

    try:
        exported = export_bundle(bundle, source, target, format, nearest, max_context, card)
    except OSError as error:
        need = bundle.subnet.params * 4 / 1e6
        raise HwfitError(
            f"--out {target}: cannot be written ({error.strerror or error}); nothing was left there. Free up to "
            f"{need:.0f} MB or give another folder"
        ) from error
    for note in exported.notes:
        out_console.print(f"note: {note}", soft_wrap=True, markup=False)
    out_console.print(f"{exported.bytes / 1e6:.1f} MB for {exported.exporter.tool}", markup=False)
    out_console.print(str(exported.path), soft_wrap=True, markup=False)
    return exported.path


def generate(
    folder: Path,
    prompt: str,
    tokens: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    chat: bool = False,
    device: str = "cpu",
) -> Generated:
    """Continue `prompt` with the deployed model in FOLDER and print tokens a second.

    Temperature 0 takes the likeliest token each time. `chat` puts the prompt into the tokenizer's chat template.
    """
    home = folder if folder.is_dir() else folder.parent
    if not any((home / name).is_file() for name in TOKENIZERS):
        raise HwfitError(f"{folder}: no tokenizer in it; give a folder that `hwfit search` or `hwfit export` wrote")
    tokenizer = load_tokenizer(home)
    ids = _prompt(tokenizer, prompt, chat)
    model: Any = open_deployed(device, folder, Workload(prompt=max(len(ids), 1), generate=max(tokens, 1)))
    shown = "" if chat else text(tokenizer, ids)
    _print(shown)
    told: list[int] = [] if chat else list(ids)

    def tell(token: int) -> None:
        nonlocal shown
        told.append(token)
        now = text(tokenizer, told)
        if not now.endswith("\ufffd"):  # a character may take several tokens
            _print(now[len(shown) :])
            shown = now

    made = continue_text(model, ids, tokens, temperature, seed, _ends(home, tokenizer), tell)
    speed = made.tokens_per_second
    out_console.print(
        f"\n\n{made.prompt_tokens} prompt tokens in {made.prefill_seconds * 1e3:.0f} ms; {len(made.ids)} tokens"
        + (f" at {speed:.1f} tokens/s" if speed else "")
        + (" (ended by itself)" if made.ended else ""),
        markup=False,
    )
    return made


def _bundle(folder: Path, model: str | None) -> tuple[Bundle, Path]:
    """The bundle and the folder of its tokenizer."""
    if model is None:
        if folder.is_file():
            raise HwfitError(
                f"{folder}: a subnet without weights; give --model, which it is to be cut out of, or a "
                "folder that `hwfit search` wrote"
            )
        return load_bundle(folder), folder
    path = folder / BUNDLE if folder.is_dir() else folder
    if not path.is_file():
        raise HwfitError(f"{path}: no such subnet; give a subnet.json or a folder with one")
    source = open_model(model)
    subnet = Subnet.load(path)
    return quantise_bundle(load_weights(source), load_shape(source), load_config(source), subnet), source


def text(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _print(part: str) -> None:
    out_console.print(part, end="", soft_wrap=True, markup=False, highlight=False)


def _prompt(tokenizer: Any, prompt: str, chat: bool) -> list[int]:
    if not chat:
        return list(tokenizer(prompt)["input_ids"])
    if not tokenizer.chat_template:
        raise HwfitError("--chat: this model's tokenizer has no chat template; leave --chat out")
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _ends(folder: Path, tokenizer: Any) -> Collection[int]:
    """Tokens that end an answer: generation_config.json's, and the tokenizer's."""
    found = read_object(folder / "generation_config.json").get("eos_token_id")
    ends = found if isinstance(found, list) else [found]
    return {token for token in (*ends, tokenizer.eos_token_id) if isinstance(token, int)}
