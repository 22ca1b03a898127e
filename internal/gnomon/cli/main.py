"""The `gnomon` command. Each command imports what it needs when it runs, so that --help needs nothing but click.

Exit codes: 0 done, 1 failed, 2 usage or settings, 3 not found, 5 conflict, 8 a server can't be reached.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gnomon import __version__
from gnomon.job.errors import ConfigurationError, Conflict, GnomonError, InvalidJob, NotFound, Unavailable
from gnomon.process.last_resort import stoppable

if TYPE_CHECKING:
    from gnomon.cli.output import Form
    from gnomon.settings import Settings

EXIT_CODES: Mapping[type[GnomonError], int] = {
    ConfigurationError: 2,
    InvalidJob: 2,
    NotFound: 3,
    Conflict: 5,
    Unavailable: 8,
}


class RootGroup(click.Group):
    """The top command: turns our errors into one line on stderr and an exit code, for every command below."""

    def invoke(self, ctx: click.Context) -> object:
        """Exits with one of EXIT_CODES (1 for a kind that has none) on a GnomonError."""
        try:
            return super().invoke(ctx)
        except GnomonError as error:
            click.echo(f"Error: {' '.join(str(error).split())}", err=True)
            ctx.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1))


class SettingsCommand(click.Command):
    """A command that takes every setting as a flag. The flags are made when its options are first needed."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The command's own options, one for each setting, then --help."""
        from gnomon.cli.flags import settings_options

        *own, help_option = super().get_params(ctx)
        return [*own, *settings_options(), help_option]


@click.group(cls=RootGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="gnomon", message="%(prog)s %(version)s")
def gnomon() -> None:
    """A distributed job scheduler managed over REST."""


@gnomon.command()
@click.option("--port", type=int, default=8000, show_default=True, help="Where the API listens, on loopback.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to keep the data in. Without it, all is gone at the end.",
)
@click.option(
    "--worker-handlers",
    metavar="MODULES",
    envvar="SCHEDULER_WORKER_HANDLERS",
    default="",
    help="Python modules that declare handlers, separated by commas; two workers more run them.",
)
def up(port: int, data: Path | None, worker_handlers: str) -> None:
    """Run all of Gnomon on this machine.

    It brings a database and a broker of its own. Not for production.
    """
    from gnomon.cli.up import run_up

    sys.exit(run_up(port=port, data=data, handlers=worker_handlers))


@gnomon.command(cls=SettingsCommand)
def api(**flags: object) -> None:
    """Run the REST API until SIGTERM."""
    settings = _service_settings(flags, role="api")
    from gnomon.bootstrap.api import run

    sys.exit(run(settings))


@gnomon.command(cls=SettingsCommand)
def scheduler(**flags: object) -> None:
    """Run a scheduler until SIGTERM.

    It turns due jobs into executions. Any number may run at once.
    """
    settings = _service_settings(flags, role="scheduler")
    from gnomon.bootstrap.scheduler import run

    sys.exit(run(settings))


@gnomon.command(cls=SettingsCommand)
def worker(**flags: object) -> None:
    """Run a worker until SIGTERM.

    It carries executions out. Any number may run at once.
    """
    settings = _service_settings(flags, role="worker")
    os.environ.pop("SSLKEYLOGFILE", None)  # where libcurl, once loaded, writes the keys of connections
    from gnomon.bootstrap.worker import run

    sys.exit(run(settings))


@gnomon.command(cls=SettingsCommand)
def migrate(**flags: object) -> None:
    """Bring the database's schema up to date.

    That is the version this program needs; running it again changes nothing.
    """
    settings = _service_settings(flags, role="migrate")
    from gnomon.bootstrap.migrate import run

    sys.exit(run(settings))


@gnomon.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("workers_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("monitoring_folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def secrets(folder: Path, workers_folder: Path, monitoring_folder: Path) -> None:
    """Write the random passwords and keys of the compose file to FOLDER.

    And the key that opens credentials of jobs to WORKERS_FOLDER, which nobody but workers may read, and that for
    /metrics to MONITORING_FOLDER. What is there already is kept.
    """
    from gnomon.cli.secrets import write_secrets

    made = write_secrets(folder, workers_folder, monitoring_folder)
    click.echo(f"made in {folder}: {', '.join(made)}" if made else f"{folder} has all of them; nothing changed")
    click.echo(f"the key to use the API with is in {folder / 'admin_key'}")


@gnomon.command()
def openapi() -> None:
    """Print the OpenAPI document of the REST API."""
    import json

    from gnomon.api.app import make_document

    click.echo(json.dumps(make_document(__version__), indent=2, ensure_ascii=False))


@gnomon.group()
def sealing() -> None:
    """Make and change the keys that credentials of jobs are sealed to."""


_KEY_FILE = click.Path(dir_okay=False, path_type=Path)


@sealing.command()
@click.argument("private_file", type=_KEY_FILE)
@click.argument("public_file", type=_KEY_FILE)
def generate(private_file: Path, public_file: Path) -> None:
    """Add a new pair of keys.

    The private one, for workers, comes first in PRIVATE_FILE, and the public one, for the API, first in PUBLIC_FILE.
    Keys that are there already are kept.
    """
    from gnomon.cli.sealing import add_pair

    click.echo(f"added the key {add_pair(private_file, public_file)}")


@sealing.command(cls=SettingsCommand)
def rotate(**flags: object) -> None:
    """Seal what is stored to the newest key.

    That is the first of secrets-private-keys, so run this where a worker's settings are. Everything may run meanwhile.
    It says which keys are no longer needed.
    """
    from gnomon.cli.sealing import rotated
    from gnomon.settings import load_settings

    said, complete = rotated(load_settings(flags))
    for line in said:
        click.echo(line)
    sys.exit(0 if complete else 1)


_FORMS = click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml"]),
    help="Form of the answer; a table on a terminal, JSON elsewhere.",
)


@gnomon.group()
def keys() -> None:
    """Say who may ask the API."""


@keys.command(cls=SettingsCommand)
@click.argument("name")
@click.option("--role", type=click.Choice(["metrics", "read", "write", "admin"]), required=True, help="What it allows.")
@click.option("--expires", metavar="WHEN", help="After 90d, 12h, or at a moment such as 2030-01-31T00:00:00Z.")
def create(name: str, role: str, expires: str | None, **flags: object) -> None:
    """Make a key, and print it.

    It is printed this once: what is stored of it can't be turned back. From the first key on, the API lets in nobody
    without one.
    """
    from gnomon.cli import keys as command
    from gnomon.settings import load_settings

    text, stored = command.create(load_settings(flags), name=name, role=role, expires=expires)
    click.echo(text)
    click.echo(f"key {stored.id} ({stored.name}) has the role {stored.role}; it is not shown again", err=True)


@keys.command("list", cls=SettingsCommand)
@_FORMS
def list_keys(output: "Form | None", **flags: object) -> None:
    """Show all keys: whose they are, what they allow, when they were last used."""
    from gnomon.cli import keys as command
    from gnomon.settings import load_settings

    click.echo(command.listed(load_settings(flags), output))


@keys.command(cls=SettingsCommand)
@click.argument("key")
def revoke(key: str, **flags: object) -> None:
    """Revoke KEY, given by its id or its name.

    Within two seconds no API process lets it in any more.
    """
    from gnomon.cli import keys as command
    from gnomon.settings import load_settings

    revoked = command.revoke(load_settings(flags), key)
    click.echo(f"key {revoked.id} ({revoked.name}) is revoked", err=True)


@gnomon.group()
def config() -> None:
    """Show and check settings."""


@config.command(cls=SettingsCommand)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml", "markdown", "example"]),
    help="Form of the answer; a table on a terminal, JSON elsewhere. Without values: markdown, the reference; example, "
    "a file to start from.",
)
def show(output: Literal["table", "json", "yaml", "markdown", "example"] | None, **flags: object) -> None:
    """Show every setting.

    Its value, where that came from, its default. Secrets are masked.
    """
    from gnomon.cli import config as command
    from gnomon.settings import load_settings

    click.echo(command.show(load_settings(flags), output))


@config.command(cls=SettingsCommand)
@_FORMS
def check(output: "Form | None", **flags: object) -> None:
    """Check flags, environment and file.

    Shows what they set. Connects to nothing.
    """
    from gnomon.cli import config as command
    from gnomon.settings import load_settings

    click.echo(command.show_given(load_settings(flags), output))
    click.echo("the settings are valid", err=True)


def _service_settings(flags: Mapping[str, object], *, role: str) -> "Settings":
    """The settings of a process that writes a log: what is said while they are read goes there too."""
    from gnomon.monitoring.logs import configure_logging
    from gnomon.settings import load_settings

    configure_logging(level="INFO", format="auto", role=role)
    return load_settings(flags)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and exits."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] in ("api", "scheduler", "worker"):
        with stoppable():
            gnomon.main(args=arguments, prog_name="gnomon")
    gnomon.main(args=arguments, prog_name="gnomon")


if __name__ == "__main__":
    main()
