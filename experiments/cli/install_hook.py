"""``wafersparse install-hook``: the stock ``cszoo`` of this Python knows the callbacks."""

import sys

import click

_EXAMPLE = "Example:  wafersparse install-hook --dry-run"


@click.command("install-hook", epilog=_EXAMPLE)
@click.option("--dry-run", is_flag=True, help="Say what would be written, then stop.")
def command(dry_run: bool) -> None:
    """Make the stock `cszoo fit` and `cszoo config validate` of this Python know this project's callbacks.

    One line is written into its site-packages. Nothing is imported until ModelZoo's trainer is; the processes
    that autorestart spawns have it too. `wafersparse fit` does not need it.
    """
    from cerebras_utils import register
    from pruning.problems import fail

    if not register.modelzoo_is_here():
        raise fail(
            sys.executable,
            "ModelZoo is not importable by this Python, and the hook would serve nothing",
            "run this command with the Python that runs cszoo",
        )
    file = register.pth_file()
    if register.is_installed():
        click.echo(f"keep  {file}")
    elif dry_run:
        click.echo(f"write {file}\n{register.pth_line()}", nl=False)
    else:
        register.install_hook()
        click.echo(f"wrote {file}")
        names = ", ".join(register.REGISTERED)
        click.echo(
            f"the cszoo of {sys.executable} knows {names} from now on; undo: wafersparse uninstall-hook",
            err=True,
        )
