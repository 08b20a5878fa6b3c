"""A group of commands that does the most usual one when none is named: `quillgate models`, `quillgate usage`."""

import click


class DefaultCommand(click.Group):
    """A group whose `default` is run when the first argument names no command."""

    default = "list"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Puts the command in where none is named; completion sees the arguments as they are."""
        named = bool(args) and (args[0] in self.commands or args[0] in ctx.help_option_names)
        return super().parse_args(ctx, args if named or ctx.resilient_parsing else [self.default, *args])
