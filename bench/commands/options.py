"""Options of every verb, and the environment variables that stand for options."""

from __future__ import annotations

import warnings
from typing import Any

import click

from defenses.plugins import PluginWarning

PLUGIN = "BENCH_PLUGIN"
OTHERS = {
    "BENCH_CACHE_DIR": "Folder of downloads; ~/.cache/purification-bench if not set.",
    "BENCH_DEBUG": "If set, an error keeps its traceback.",
}
"""Variables that stand for no option -> what they do."""
_show_as_before = warnings.showwarning


class UserError(click.ClickException):
    """What the user can put right: one sentence and exit code 2."""

    exit_code = 2


def show_warning(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
    """Show a warning about a plug-in as its sentence alone, others as before."""
    if issubclass(category, PluginWarning):
        click.echo(str(message), err=True)
    else:
        _show_as_before(message, category, *place, **options)


def _load_plugins(ctx: click.Context, option: click.Parameter, paths: tuple[str, ...]) -> None:
    if paths and not ctx.resilient_parsing:
        from bench.plugins import load_plugins

        try:
            load_plugins(paths)
        except (ValueError, LookupError, OSError) as error:  # where options are read, nothing else turns it into one
            raise UserError(str(error)) from error


def complete_options(main: click.Group) -> None:
    """Give every option its environment variable; add --plugin to the program, and to every verb behind it too."""
    for verb, command in main.commands.items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.envvar is None:
                word = max(parameter.opts, key=len).lstrip("-").replace("-", "_").upper()
                parameter.envvar = [f"BENCH_{verb.upper()}_{word}"]
    for command, variable in ((main, PLUGIN), *((command, None) for command in main.commands.values())):
        option = click.Option(
            ["--plugin"],
            multiple=True,
            type=click.Path(),
            metavar="FILE.py",
            envvar=variable,
            callback=_load_plugins,
            expose_value=False,
            help="Load defenses, attacks, networks or data sets of your own from this file first. Repeatable.",
        )
        command.params.append(option)


def environment_variables(main: click.Group) -> dict[str, str]:
    """Every environment variable that the program reads by a name of its own -> what it stands for."""
    found = dict(OTHERS)
    for command in (main, *main.commands.values()):
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(option.envvar, str):
                found.setdefault(option.envvar, f"{option.opts[0]}. {option.help}")
    return dict(sorted(found.items()))


class WithVariables(click.Group):
    """A group whose help ends with the environment variables."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the variables below the verbs."""
        with formatter.section("Environment variables"):
            formatter.write_dl(list(environment_variables(self).items()))
        formatter.write_paragraph()
        formatter.write_text(
            "Every other option of a verb has one too, BENCH_<VERB>_<OPTION>: BENCH_RUN_SEED=3 is `bench run --seed "
            "3`. An option on the command line comes first."
        )
