"""The line in site-packages: what it costs, what it registers, and that it may be left behind."""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from cerebras_utils import register

ROOT = Path(__file__).parents[2]
MODELZOO = {  # as little of it as the registration touches
    "cerebras/modelzoo/__init__.py": "",
    "cerebras/modelzoo/trainer/__init__.py": "",
    "cerebras/modelzoo/trainer/validate.py": "import cerebras.modelzoo.trainer.callbacks\nRAN = True\n",
    "cerebras/modelzoo/trainer/callbacks/__init__.py": "from .callback import Callback\n",
    "cerebras/modelzoo/trainer/callbacks/callback.py": (
        "GLOBAL_CALLBACK_REGISTRY = {}\nclass Callback:\n    pass\n"
        "def register_global_callback(c):\n    pass\n"
    ),
}


@pytest.fixture
def modelzoo(tmp_path):
    for name, text in MODELZOO.items():
        path = tmp_path / "zoo" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "zoo"


def python(code, *, path=(), before=""):
    """A bare Python that has executed a line of a .pth file at its start."""
    program = f"{before}\n{code}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120
    )


def test_the_callbacks_are_subclasses_once_modelzoo_is_imported(modelzoo):
    code = (
        "import sys\n"
        "assert not {'torch', 'numpy', 'cerebras_utils'} & set(sys.modules)\n"
        "import cerebras.modelzoo.trainer.callbacks as c\n"
        "assert not c.Callback.__subclasses__()\n"
        "import cerebras.modelzoo.trainer.validate as v\n"
        "assert v.RAN\n"
        "print(sorted(k.__name__ for k in c.Callback.__subclasses__()))\n"
        "import cerebras_utils.register as r, cerebras_utils.sparse_callback as s\n"
        "r.register()\n"
        "(ours,) = [k for k in c.Callback.__subclasses__() if k.__name__ == 'SparseMaskCallback']\n"
        "assert issubclass(ours, s.SparseMaskCallback)\n"
        "assert ours('m', apply_every_step=False).apply_every_step is False\n"
    )
    result = python(code, path=[modelzoo, ROOT], before=register.pth_line())
    assert result.returncode == 0, result.stderr
    assert {*register.REGISTERED} < set(eval(result.stdout))
    assert result.stderr == ""


def test_without_this_project_on_the_path_it_is_found_where_it_is(modelzoo):
    code = (
        "import sys, cerebras.modelzoo.trainer.validate, cerebras.modelzoo.trainer.callbacks as c\n"
        f"assert {str(ROOT)!r} in sys.path\n"
        "print([k.__name__ for k in c.Callback.__subclasses__()])"
    )
    result = python(f"import os; os.chdir('/')\n{code}", path=[modelzoo], before=register.pth_line())
    assert "SparseMaskCallback" in result.stdout, result.stderr


def test_a_registration_that_fails_says_so_and_stops_nothing_else(modelzoo):
    callbacks = modelzoo / "cerebras/modelzoo/trainer/callbacks/callback.py"
    callbacks.write_text("class Callback:\n    pass\n")
    result = python(
        "import cerebras.modelzoo.trainer.validate as v; print(v.RAN)",
        path=[modelzoo],
        before=register.pth_line(),
    )
    assert result.stdout == "True\n"
    assert "could not register its callbacks: ImportError" in result.stderr
    assert "fix: " in result.stderr


def test_a_line_that_outlives_the_project_is_silent():
    gone = register.pth_line().replace(str(ROOT), "/nowhere/to/be/found")
    assert gone != register.pth_line()
    result = python("print('up')", before=gone)
    assert (result.stdout, result.stderr, result.returncode) == ("up\n", "", 0)


def test_it_is_one_line_that_site_executes(tmp_path):
    line = register.pth_line()
    assert line.startswith("import ")
    assert line.count("\n") == 1
    (tmp_path / register.PTH).write_text(line)
    code = f"import site, sys; site.addsitedir({str(tmp_path)!r}); print(sys.meta_path[0].__name__)"
    assert python(code).stdout == "RegistersAfterTrigger\n"


def test_start_up_is_no_more_than_10_ms_slower():
    """Medians of the time on a processor, of starts in turns: other programs do not count."""
    times = {"": [], register.pth_line(): []}
    for _ in range(11):
        for line, taken in times.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-I", "-c", line], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    without, with_line = (statistics.median(taken) for taken in times.values())
    assert with_line - without < 0.010


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(register, "pth_file", lambda: tmp_path / "site-packages" / register.PTH)
    monkeypatch.setattr(register, "modelzoo_is_here", lambda: True)
    return tmp_path / "site-packages"


def test_install_keep_uninstall(site_packages):
    from click.testing import CliRunner

    from experiments.cli import main

    def run(*words):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.stdout

    file = site_packages / register.PTH
    assert run("uninstall-hook") == f"there is no {file}\n"
    assert run("install-hook", "--dry-run") == f"write {file}\n{register.pth_line()}"
    assert not site_packages.exists()
    assert run("install-hook") == f"wrote {file}\n"
    assert file.read_text() == register.pth_line()
    stamp = file.stat().st_mtime_ns
    assert run("install-hook") == f"keep  {file}\n"
    assert file.stat().st_mtime_ns == stamp
    file.write_text("import sys  # of another copy\n")
    assert run("install-hook") == f"wrote {file}\n"
    assert run("uninstall-hook", "--dry-run") == f"remove {file}\n"
    assert run("uninstall-hook") == f"removed {file}\n"
    assert not list(site_packages.iterdir())


def test_a_python_without_modelzoo_gets_no_hook(site_packages, monkeypatch):
    from click.testing import CliRunner

    from experiments.cli import main

    monkeypatch.setattr(register, "modelzoo_is_here", lambda: False)
    result = CliRunner().invoke(main, ["install-hook"])
    assert result.exit_code == 1
    assert "ModelZoo is not importable" in result.stderr
    assert not site_packages.exists()
