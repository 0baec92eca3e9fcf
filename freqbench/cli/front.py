"""Orders the commands, writes their one page of help, and takes the names that they had before."""

from collections.abc import Mapping
from typing import Any

from typer.core import TyperGroup

from freqbench.core.terminal import PlainConsole

PANELS: Mapping[str, tuple[str, ...]] = {  # as a user works
    "Begin": ("init", "list", "doctor"),
    "Run": ("plan", "run", "score", "study", "cluster"),
    "Read": ("report", "compare", "export"),
    "Check": ("audit", "verify", "reproduce", "board"),
}
OLD: Mapping[str, str] = {  # names of the release before this one, until the next
    **{table: f"list {table}" for table in ("attacks", "models", "datasets", "metrics")},
    **{"cache": "doctor cache", "schema": "doctor schema", "train": "run"},
    **{"converge": "study converge", "certify": "study certify"},
    **{"open": "report --open", "serve": "report --serve", "leaderboard": "board"},
    **{name: f"cluster {name}" for name in ("submit", "status", "logs", "stop")},
    "jobs": "cluster list",
}
EPILOG = "--version, --install-completion, --show-completion; COMMAND --help"


class Front(TyperGroup):
    """Group of all commands, in the order of PANELS; a name in OLD is said on stderr and taken as the new one."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Lists the commands as the help has them."""
        return [name for names in PANELS.values() for name in names]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command of the first argument, for a name in OLD that of the new one."""
        if (old := args[0]) in OLD:
            if not ctx.resilient_parsing:  # a shell completes
                notice = f"freqbench {old} is freqbench {OLD[old]} from now on: the old name goes with the next release"
                PlainConsole(stderr=True).print(notice, soft_wrap=True)
            args = [*OLD[old].split(), *args[1:]]
        return super().resolve_command(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes all commands on one screen, without boxes."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        for title, names in PANELS.items():
            with formatter.section(title):
                texts = {name: self.commands[name].get_short_help_str(formatter.width) for name in names}
                formatter.write_dl([(f"{name:<9}", text) for name, text in texts.items()])
        with formatter.section("Options"):
            formatter.write_text(EPILOG)
