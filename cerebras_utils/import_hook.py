"""Runs at every start of a Python that has the hook: the standard library alone, and next to nothing of it.

Nothing happens until ModelZoo's ``trainer.validate`` is imported, which is where cszoo looks up the
callbacks of a YAML. Right after it, this project's are registered. Executed by path, from a ``.pth``
file, so that it works without this project on the path and costs no search for it.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, union-attr, method-assign"
import sys

TRIGGER = "cerebras.modelzoo.trainer.validate"
ROOT = __file__.rpartition("/")[0].rpartition("/")[0]


class RegistersAfterTrigger:
    """A finder for one module, which the other finders find; what is added is done after its own code."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != TRIGGER:
            return None
        sys.meta_path.remove(cls)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                spec.loader.exec_module = _followed(spec.loader.exec_module)
                return spec
        return None


def _followed(execute):
    def exec_module(module):
        execute(module)
        _register()

    return exec_module


def install():
    """Twice is once. A module that was imported before is served by ``cerebras_utils.register`` alone."""
    if not any(getattr(finder, "__name__", "") == "RegistersAfterTrigger" for finder in sys.meta_path):
        sys.meta_path.insert(0, RegistersAfterTrigger)


def _register():
    if ROOT not in sys.path:
        sys.path.append(ROOT)
    try:
        from cerebras_utils.register import register

        register()
    except Exception as error:  # other runs of this Python are none of our business
        print(
            f"wafersparse ({ROOT}) could not register its callbacks: {type(error).__name__}: {error}\n"
            "   cszoo will refuse a config that names one\n"
            "   fix: install wafersparse with its dependencies here, or run `wafersparse uninstall-hook`",
            file=sys.stderr,
        )
