"""Layout of the command line: `--help` pages, shared options, and commands that are imported when they are used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup


def option(help: str, *names: str, panel: str | None = None, **settings: Any) -> Any:
    """Returns a typer option in a group of `--help`."""
    return typer.Option(*names, help=help, rich_help_panel=panel, **settings)


Json = Annotated[bool, option("Print JSON only.", "--json", panel="Output")]
Overrides = Annotated[list[str] | None, option("Override a profile value, as in distill.steps=200.", "--set", metavar="KEY=VALUE")]


class _Page:
    """Writes help as summary, usage, details, examples, arguments and options; options are grouped by `rich_help_panel`."""

    help: str | None
    format_usage: Callable[..., None]
    get_params: Callable[..., list[Any]]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        summary, *rest = (self.help or "").split("\n\n")
        formatter.write_text(summary)
        formatter.write_paragraph()
        self.format_usage(ctx, formatter)
        for text in (part for part in rest if not part.startswith("Example: ")):
            formatter.write_paragraph()
            formatter.write_text(text)
        if examples := [part.removeprefix("Example: ") for part in rest if part.startswith("Example: ")]:
            with formatter.section("Examples" if len(examples) > 1 else "Example"):
                formatter.write("".join(f"  {line}\n" for line in examples))
        self.format_options(ctx, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            default = "Arguments" if param.param_type_name == "argument" else "Options"
            if record := param.get_help_record(ctx):
                groups.setdefault(getattr(param, "rich_help_panel", None) or default, []).append(record)
        order = {"Arguments": 0, "Options": 1, "Output": 3}
        for title in sorted(groups, key=lambda title: order.get(title, 2)):
            with formatter.section(title):
                formatter.write_dl(groups[title])


class Command(_Page, TyperCommand):
    """A command with this layout."""


class Group(_Page, TyperGroup):
    """A group of commands with this layout."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)


class Commands(typer.Typer):
    """A group to which `@command()` adds commands with this layout."""

    def __init__(self, help: str = "", cls: type[TyperGroup] = Group, add_completion: bool = False) -> None:
        settings = {"help_option_names": ["-h", "--help"]}
        super().__init__(
            help=help, cls=cls, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
            context_settings=settings, add_completion=add_completion,
        )  # fmt: skip
        self.callback()(lambda: None)  # a group even if it has one command

    def command(self, name: str | None = None, **settings: Any) -> Callable[..., Any]:
        return super().command(name, cls=Command, **settings)


@dataclass(frozen=True)
class Entry:
    """A command that is not imported yet: "module:attribute", its section in the list of commands, and its summary."""

    target: str
    section: str
    summary: str

    def load(self, name: str) -> Any:
        """Imports the module and returns its command or group."""
        module, _, attribute = self.target.partition(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        one = Commands()
        one.command(name)(found)
        return typer.main.get_group(one).commands[name]


class LazyGroup(Group):
    """A group whose list of commands, completion and suggestions come from `entries`; only the command that runs is imported."""

    entries: Mapping[str, Entry] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": dict.fromkeys(self.entries)})

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self.entries[cmd_name].load(cmd_name) if cmd_name in self.entries else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for section in dict.fromkeys(entry.section for entry in self.entries.values()):
            with formatter.section(section):
                formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items() if entry.section == section])

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        from typer._click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=entry.summary) for name, entry in self.entries.items() if name.startswith(incomplete)]
        return [*names, *super(TyperGroup, self).shell_complete(ctx, incomplete)]
