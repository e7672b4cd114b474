"""The flags of ``cszoo fit`` and ``cszoo validate`` (ModelZoo 2.10): their names, and what they are here."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

_CLUSTER = "there is no cluster"


@dataclass(frozen=True)
class Flag:
    name: str
    help: str
    metavar: str = "TEXT"
    short: str = ""
    choices: tuple[str, ...] = ()
    whole: bool = False
    switch: bool = False
    many: bool = False  # takes all words up to the next flag, as cszoo's
    hidden: bool = False
    no_effect: str = ""  # the reason, where plain PyTorch has no use for it
    refused: str = ""  # the reason, where leaving it out would be another run


FLAGS = (
    Flag("target_device", "Instead of the config's.", choices=("CSX", "GPU", "CPU")),
    Flag("model_dir", "Where the run is left; instead of the config's.", "DIR", short="-o"),
    Flag("checkpoint_path", "Start from this checkpoint.", "FILE"),
    Flag("load_checkpoint_states", "Load these of its states, as `model,optimizer`, and no others.", "NAMES"),
    Flag("logging", "The least level that is logged.", "LEVEL"),
    Flag("compile_only", "Compile for the CS-3, and stop.", switch=True, refused="nothing is compiled"),
    Flag("validate_only", "Stop compiling early.", switch=True, refused="nothing is compiled"),
    Flag("num_csx", "How many CS-3s.", whole=True, no_effect=_CLUSTER),
    Flag("mount_dirs", "Mounted in the cluster.", "DIR...", many=True, no_effect=_CLUSTER),
    Flag("python_paths", "On PYTHONPATH there.", "DIR...", many=True, no_effect=_CLUSTER),
    Flag("job_labels", "Of the job.", "KEY=VALUE...", many=True, no_effect=_CLUSTER),
    Flag("job_priority", "Of the job.", choices=("p1", "p2", "p3"), no_effect=_CLUSTER),
    Flag("credentials_path", "For the cluster.", "FILE", no_effect=_CLUSTER),
    Flag("mgmt_address", "Of the cluster.", "HOST:PORT", no_effect=_CLUSTER),
    Flag("mgmt_namespace", "Of the cluster.", hidden=True, no_effect=_CLUSTER),
    Flag("disable_version_check", "Of the cluster.", switch=True, no_effect=_CLUSTER),
    Flag("debug_args", "For its compiler.", "KEY=VALUE...", many=True, no_effect=_CLUSTER),
    Flag("debug_args_path", "The same, from a file.", "FILE", no_effect=_CLUSTER),
    Flag("ini", "For its compiler.", "KEY=VALUE...", many=True, no_effect=_CLUSTER),
)
_MANY = {f"--{flag.name}" for flag in FLAGS if flag.many}


class CszooCommand(click.Command):
    """Reads ``--mount_dirs A B`` as cszoo does: every word up to the next flag belongs to it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*_repeated(args)])


def _repeated(words: list[str]) -> Iterator[str]:
    flag = ""
    for word in words:
        if word in _MANY:
            flag = word
        elif word.startswith("-"):
            flag = ""
            yield word
        elif flag:
            yield flag
            yield word
        else:
            yield word


def cszoo_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    for flag in reversed(FLAGS):
        names = [*([flag.short] if flag.short else []), f"--{flag.name}"]
        common: dict[str, Any] = {"help": flag.help, "hidden": flag.hidden}
        if flag.switch:
            option = click.option(*names, is_flag=True, **common)
        elif flag.choices:
            option = click.option(
                *names,
                type=click.Choice(flag.choices, case_sensitive=False),
                metavar="|".join(flag.choices),
                **common,
            )
        elif flag.whole:
            option = click.option(*names, type=click.IntRange(1), **common)
        else:
            option = click.option(*names, metavar=flag.metavar, multiple=flag.many, **common)
        command = option(command)
    return command


def for_cszoo(given: Mapping[str, Any]) -> list[str]:
    """The words of the flags that were given."""
    words: list[str] = []
    for flag in FLAGS:
        value = given[flag.name]
        if flag.switch:
            words += [f"--{flag.name}"] if value else []
        elif value not in (None, ()):
            words += [f"--{flag.name}", *(map(str, value) if flag.many else [str(value)])]
    return words


def without_use(given: Mapping[str, Any]) -> tuple[list[tuple[str, str]], list[str]]:
    """Of the flags that were given, those that mean nothing on plain PyTorch: refused, and without effect."""
    written = [flag for flag in FLAGS if given[flag.name] not in (None, (), False)]
    refused = [
        (f"--{flag.name}", f"has no meaning on plain PyTorch: {flag.refused}")
        for flag in written
        if flag.refused
    ]
    idle = [f"--{flag.name} has no effect here: {flag.no_effect}" for flag in written if flag.no_effect]
    return refused, idle
