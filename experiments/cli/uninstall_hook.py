"""``wafersparse uninstall-hook``."""

import click

_EXAMPLE = "Example:  wafersparse uninstall-hook"


@click.command("uninstall-hook", epilog=_EXAMPLE)
@click.option("--dry-run", is_flag=True, help="Say what would be removed, then stop.")
def command(dry_run: bool) -> None:
    """Remove the line that `install-hook` wrote into the site-packages of this Python."""
    from cerebras_utils import register

    file = register.pth_file()
    if not file.exists():
        click.echo(f"there is no {file}")
    elif dry_run:
        click.echo(f"remove {file}")
    else:
        register.uninstall_hook()
        click.echo(f"removed {file}")
