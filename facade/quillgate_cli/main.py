"""The command `quillgate`: the tree of commands, and what becomes of their failures.

A failure is one line on standard error, `quillgate: …`, never a traceback, and one of these exit codes:

    code  meaning
    0     done
    1     the server reported a failure, or sent what it should not
    2     wrong usage; nothing was sent
    3     not authenticated, or not allowed
    4     what was named does not exist, or is not yours
    5     core cannot be reached, is overloaded, or did not answer in time
    130   interrupted with Ctrl-C
    141   whoever read the output went away (`| head`)

Commands speak gRPC through the generated stubs only. `serve` has its own file, which alone may import the core and the
facade, and which is imported only when it is needed.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from quillgate_cli import keys, models, output, usage, workspaces
from quillgate_cli.failure import ExitCode, Failure

_SERVE_MODULE = "quillgate_cli.serve"


class WithServe(TyperGroup):
    """The commands, and `serve`, which is imported only to run it: it brings the whole service with it."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names every command, `serve` last; an installation without it has none."""
        present = importlib.util.find_spec(_SERVE_MODULE) is not None
        return [*super().list_commands(ctx), *(["serve"] if present else [])]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the command to list or describe; for `serve` only its name and one line."""
        if cmd_name == "serve" and cmd_name in self.list_commands(ctx):
            return TyperCommand(cmd_name, help="Run the service: core, facade or both.")
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Returns the command to run, or to complete."""
        name, command, rest = super().resolve_command(ctx, args)
        if name == "serve":
            command = typer.main.get_group(importlib.import_module(_SERVE_MODULE).app)
        return name, command, rest


app = typer.Typer(
    cls=WithServe,
    help="Operate Quillgate: workspaces, keys, usage and models over gRPC, and the service itself.",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
app.add_typer(workspaces.app, name="workspaces")
app.add_typer(keys.app, name="keys")
app.command("usage")(usage.usage)
app.command("quote")(usage.quote)
app.add_typer(models.app, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        output.print_line(f"quillgate {importlib.metadata.version('quillgate')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Operate Quillgate: workspaces, keys, usage and models over gRPC, and the service itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; `arguments` are those of the process unless given."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except Failure as failure:
        return _complain(str(failure), failure.exit_code)
    except typer.TyperException as error:
        return _complain(_usage_text(error), error.exit_code) if error.format_message() else error.exit_code
    except output.StdoutClosed:
        return ExitCode.PIPE_CLOSED
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:  # the last resort: what it says could hold a key, where it was cannot
        return _complain(_unexpected_text(error), ExitCode.FAILED)


def _run(arguments: list[str]) -> int:
    if any("\udc80" <= ch <= "\udcff" for argument in arguments for ch in argument):
        raise Failure("the arguments are not UTF-8", ExitCode.USAGE)
    result = typer.main.get_command(app).main(args=arguments, prog_name="quillgate", standalone_mode=False)
    return result if isinstance(result, int) else ExitCode.OK


def _complain(text: str, exit_code: int) -> int:
    if sys.stderr is not None:
        print(f"quillgate: {output.clean(text)}", file=sys.stderr)
    return exit_code


def _usage_text(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    text = error.format_message().rstrip(".")
    return text if context is None else f"{text}; see `{context.command_path} --help`"


def _unexpected_text(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__} in {frame.name} (line {frame.lineno}); please report it"
