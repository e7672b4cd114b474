"""The command line, a verb a file. Verbs are imported when they are called: ``--help`` answers at once."""

import errno
from importlib import import_module

import click

from pruning.problems import ProblemError

VERBS = {  # name: (module, what it does)
    "masks": ("experiments.cli.masks", "Compute masks for a checkpoint, one file per sparsity."),
    "inspect": ("experiments.cli.inspect", "Show a checkpoint or a mask file, or compare two mask files."),
    "compare": ("experiments.cli.compare", "Compare runs: a table, what is wrong with it first."),
    "merge": ("experiments.cli.merge", "Merge LoRA into its weights; HuggingFace and back."),
    "config": ("experiments.cli.config", "Write masks, and LoRA, into a cszoo YAML."),
    "data": ("experiments.cli.data", "Make a set to train on from text that every machine has."),
    "doctor": ("experiments.cli.doctor", "Check a cszoo YAML and what it names, before it queues."),
    "trace": ("experiments.cli.trace", "Check what the CS-3 compiler would be told, without a CS-3."),
    "fit": ("experiments.cli.fit", "Train as a cszoo YAML says, on cszoo or plain PyTorch."),
    "validate": ("experiments.cli.validate", "Validate as a cszoo YAML says, on cszoo or plain PyTorch."),
    "validate_all": ("experiments.cli.validate_all", "Validate every checkpoint on every set."),
    "sweep": ("experiments.cli.sweep", "Plan, start and resume many runs: sparsities, scores, LoRA, seeds."),
    "status": ("experiments.cli.status", "Show how the runs of a sweep go, with the time left."),
    "install-hook": ("experiments.cli.install_hook", "Let this Python's stock cszoo know the callbacks."),
    "uninstall-hook": ("experiments.cli.uninstall_hook", "Take that back again."),
}


class Verbs(click.Group):
    """Knows its commands by name before any of them is imported, and how to report what is wrong."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in VERBS:
            return None
        command = import_module(VERBS[name][0]).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in VERBS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ProblemError as error:
            count = len(error.problems)
            click.echo(f"error: {error}" if count == 1 else f"{count} errors:\n{error}", err=True)
            ctx.exit(1)
        except OSError as error:
            if error.errno in (
                errno.ENOSPC,
                errno.EIO,
            ):  # of stdout: files are written by those who report it
                click.echo(f"error: the output cannot be written: {error.strerror}", err=True)
                ctx.exit(1)
            raise


def _version(ctx: click.Context, param: click.Parameter, asked: bool) -> None:
    """Of what is installed: a directory on PYTHONPATH has none."""
    if asked and not ctx.resilient_parsing:
        from pruning.masks.receipt import this_tool

        click.echo(this_tool())
        ctx.exit()


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example:  wafersparse masks model.safetensors --sparsity 0.5 --sparsity 0.75",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version.",
)
def main() -> None:
    """Sparse training experiments for the Cerebras CS-3."""
