"""Making this project's callbacks known to cszoo, which has no way to name a plug-in in its YAML.

Two ways: ``register()`` in the process that calls cszoo (``wafersparse fit``), or a line in the
site-packages of a Python by which every process of it registers them once it imports ModelZoo's
trainer (``wafersparse install-hook``). The second serves the stock ``cszoo`` as well.
"""

import importlib
import importlib.util
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from cerebras_utils import import_hook
from pruning.atomic import Part, refusal

# A callback's name in a YAML → the module of its class, whose arguments are those of the YAML.
REGISTERED: Mapping[str, str] = {
    "SparseMaskCallback": "cerebras_utils.sparse_callback",
    "SparseLora": "cerebras_utils.lora_callbacks",
}
PTH = "wafersparse_cszoo.pth"
MODELZOO = "cerebras.modelzoo"


def register() -> None:
    """Import ModelZoo's callbacks, and make subclasses of its ``Callback``. Twice is once."""
    importlib.import_module("cerebras_utils.cszoo_callbacks")


def modelzoo_is_here() -> bool:
    try:
        return importlib.util.find_spec(MODELZOO) is not None
    except ImportError:  # nor is the package above it
        return False


def pth_file() -> Path:
    """Among the site-packages of the running Python."""
    return Path(sysconfig.get_path("purelib"), PTH)


def pth_line() -> str:
    """What ``site`` executes at every start of Python, if it is one line that begins with ``import``.

    It says nothing when this project is gone: a hook that is left behind must not print at every start.
    """
    file = str(Path(import_hook.__file__).resolve())
    name = "wafersparse_import_hook"
    body = (
        f"try:\n s = open({file!r}, encoding='utf-8').read()\n"
        f"except OSError:\n pass\n"
        f"else:\n g = {{'__name__': {name!r}, '__file__': {file!r}}}\n"
        f" exec(compile(s, {file!r}, 'exec'), g)\n g['install']()"
    )
    return f"import sys; exec({body!r}, {{}})\n"


def is_installed() -> bool:
    """The line of this very project is there. One of another copy of it is not."""
    file = pth_file()
    return file.is_file() and file.read_text(encoding="utf-8") == pth_line()


def install_hook() -> bool:
    """Write the line. False: it is there already."""
    if is_installed():
        return False
    with Part(pth_file(), overwrite=True) as part:
        part.write(pth_line().encode())
    return True


def uninstall_hook() -> bool:
    """Remove the line, whichever copy of this project wrote it. False: there is none."""
    file = pth_file()
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise refusal(file, error) from error
    return True
