"""Settings as command line options."""

import functools
from collections.abc import Sequence

import click

from gnomon.settings import Setting, declared, shown


@functools.cache
def settings_options() -> Sequence[click.Option]:
    """--config, then an option for each setting; what is not given is None, and `load_settings` decides."""
    file = click.Option(["--config"], metavar="FILE", help="Configuration file. [default: config/config.yaml]")
    return [file, *(_option(setting) for setting in declared())]


def _option(setting: Setting) -> click.Option:
    default = f"; default: {shown(setting.default)}" if setting.default else ""
    help_text = f"{_sentence(setting.meaning)} Expects {setting.expects}. [{setting.variable}{default}]"
    if setting.is_switch:
        off = f"--no-{setting.flag.removeprefix('--')}"
        return click.Option([f"{setting.flag}/{off}"], default=None, help=help_text)
    return click.Option([setting.flag], metavar="VALUE", help=help_text)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
