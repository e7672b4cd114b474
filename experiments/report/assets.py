"""The page's style and script: plain files beside this one, put into every page."""

import base64
import hashlib
from importlib.resources import files

from experiments.report.markup import Markup, element

_HERE = files("experiments.report") / "assets"


def style() -> Markup:
    return element("style", Markup(_read("report.css")))


def script() -> Markup:
    return element("script", Markup(_read("report.js")))


def policy() -> Markup:
    """No request to anywhere, and no script but ours: whatever a run was named, it cannot act."""
    digest = base64.b64encode(hashlib.sha256(_read("report.js").encode()).digest()).decode()
    rules = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    return element("meta", http_equiv="Content-Security-Policy", content=rules)


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
