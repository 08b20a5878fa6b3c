"""`quillgate completion` and what the shell then asks: which words may come next. Must not call core."""

from collections.abc import Mapping

import click
from click.shell_completion import get_completion_class, shell_complete

from quillgate_cli import output
from quillgate_cli.failure import ExitCode, Failure

PROGRAM = "quillgate"
COMPLETE_VARIABLE = "_QUILLGATE_COMPLETE"
_SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes a shell complete `quillgate`.

    \b
    bash:  eval "$(quillgate completion bash)"    in ~/.bashrc
    zsh:   eval "$(quillgate completion zsh)"     in ~/.zshrc
    fish:  quillgate completion fish | source     in ~/.config/fish/config.fish
    """
    completing = get_completion_class(shell)
    if completing is None:
        raise Failure(f"completion does not know {shell}", ExitCode.FAILED)
    output.write(completing(context.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE).source() + "\n")


def complete(command: click.Command, environ: Mapping[str, str]) -> int | None:
    """Answers the shell's question if the environment holds one, and returns the exit code; None: there is none."""
    instruction = environ.get(COMPLETE_VARIABLE)
    return shell_complete(command, {}, PROGRAM, COMPLETE_VARIABLE, instruction) if instruction else None
