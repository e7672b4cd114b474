"""HTML and SVG as text in which nothing that came from a run can become markup.

Names, paths, config values and error messages are text from outside: ``element`` escapes every child that it
has not made itself.
"""

import json
import re
from collections.abc import Iterable
from html import escape as _escape
from typing import Any

_VOID = {"meta", "link", "input", "br", "col"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Markup(str):
    """Text that is markup already."""


def text(value: object) -> Markup:
    if isinstance(value, Markup):
        return value
    return Markup(_escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value)), quote=True))


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """``class_`` and ``data_row`` are class and data-row. True is a bare attribute; None and False none.

    >>> element("a", "1 < 2", href="#x", class_="y")
    '<a href="#x" class="y">1 &lt; 2</a>'
    """
    said = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        said.append(f" {name}" if value is True else f' {name}="{text(value)}"')
    opened = f"<{tag}{''.join(said)}>"
    return Markup(opened if tag in _VOID else f"{opened}{join(children)}</{tag}>")


def join(children: Iterable[object], between: str = "") -> Markup:
    return Markup(text(between).join(text(child) for child in children if child is not None))


def data(name: str, value: Any) -> Markup:
    """JSON for the page's script, in a block that no text in it can close."""
    plain = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        plain = plain.replace(sign, f"\\u{ord(sign):04x}")
    return element("script", Markup(plain), type="application/json", id=name)
