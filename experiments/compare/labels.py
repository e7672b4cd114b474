"""Readable names for configurations: what they are, and the fewest settings that tell them apart.

Two configs of different programs differ in a hundred keys that are written in one and implied in the other. A
label names no more of them than it must; the diff of two configs shows them all.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.compare.settings import KIND, MASK_CALLBACK, MASKS

_LORA = re.compile(r"init\.callbacks\.(Lora|SparseLora)\.lora_params(?:\[\d+\])?\.(.+)")
_DIGEST = re.compile(r"-([0-9a-f]{8})$")
# Of a set that others do not have, its place says what it is, and no other of its settings does.
_OF_A_SET = re.compile(r".*dataloaders?\[\d+\]\.(?P<setting>.+)")
_LONGEST = 24  # characters of a value


def labels(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """One for each, on one line. Equal labels are left where nothing in the settings tells two apart."""
    words = [_words(one) for one in settings]
    chosen = _telling_apart(settings, words)
    return [
        " ".join(
            [
                *(own or [str(one.get(KIND, "dense"))]),
                *(_said(key, one[key], chosen) for key in chosen if key in one),
            ]
        )
        for own, one in zip(words, settings, strict=True)
    ]


def _words(settings: Mapping[str, Any]) -> list[str]:
    words = [_DIGEST.sub("", _line(settings[MASKS]))] if MASKS in settings else []
    if settings.get(f"{MASK_CALLBACK}.apply_every_step") is False:
        words.append("once")
    if any(key.startswith("init.sparsity") and value is not None for key, value in settings.items()):
        words.append("native sparsity")
    lora = {m[2]: settings[key] for key in settings if (m := _LORA.fullmatch(key))}
    if lora:
        kind = "sparse-lora" if any("SparseLora" in key for key in settings) else "lora"
        words.append(f"{kind} r{lora.get('r', '?')}")
    return words


def _telling_apart(settings: Sequence[Mapping[str, Any]], words: Sequence[list[str]]) -> list[str]:
    """Keys, one after the other, each the one that splits most of what is still alike."""
    classes = [" ".join(own) for own in words]
    keys = {key for one in settings for key in one} - {KIND}
    texts = {key: [repr(one.get(key)) for one in settings] for key in keys}
    varying = {key: values for key, values in texts.items() if len(set(values)) > 1}
    chosen: list[str] = []
    while varying and (count := len(set(classes))) < len(settings):
        best = min(
            varying,
            key=lambda k: (-len(set(zip(classes, varying[k], strict=True))), _says_little(k), len(k), k),
        )
        classes = [f"{old} {value}" for old, value in zip(classes, varying.pop(best), strict=True)]
        if len(set(classes)) == count:
            break
        chosen.append(best)
    return chosen


def _says_little(key: str) -> bool:
    found = _OF_A_SET.fullmatch(key)
    return found is not None and found["setting"] != "data_dir"


def _said(key: str, value: object, among: Sequence[str]) -> str:
    text = _line(value)
    if key == MASKS and (digest := _DIGEST.search(text)):
        return digest[1]
    return f"{_short(key, among)}={text if len(text) <= _LONGEST else f'…{text[1 - _LONGEST :]}'}"


def _line(value: object) -> str:
    """A value may be text of several lines, which would break the row of a table."""
    return " ".join(str(value).split())


def _short(key: str, among: Sequence[str]) -> str:
    """The shortest ending that no other key of these has."""
    parts = key.split(".")
    for count in range(2 if _OF_A_SET.fullmatch(key) else 1, len(parts) + 1):
        ending = ".".join(parts[-count:])
        if sum(other == ending or other.endswith(f".{ending}") for other in among) == 1:
            return ending
    return key
