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
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence

import click
from click.exceptions import Exit, NoArgsIsHelpError

from quillgate_cli import credentials, keys, ledger, models, output, usage, workspaces
from quillgate_cli.client_config import client_config
from quillgate_cli.completion import PROGRAM, complete, completion
from quillgate_cli.count import count
from quillgate_cli.failure import ExitCode, Failure

_SERVE_MODULE = "quillgate_cli.serve"


class WithServe(click.Group):
    """The commands, and `serve`, which is imported only to run it: it brings the whole service with it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names every command as added, `serve` last; an installation without it has none."""
        present = importlib.util.find_spec(_SERVE_MODULE) is not None
        return [*self.commands, *(["serve"] if present else [])]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Returns the command to list or describe; for `serve` only its name and one line."""
        if cmd_name == "serve" and cmd_name in self.list_commands(ctx):
            return click.Command(cmd_name, help="Run the service: core, facade or both.")
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command to run, or to complete."""
        name, command, rest = super().resolve_command(ctx, args)
        if name == "serve" and command is not None:
            command = importlib.import_module(_SERVE_MODULE).app
        return name, command, rest


app = WithServe(
    PROGRAM,
    commands=[
        workspaces.app,
        keys.app,
        credentials.app,
        usage.app,
        count,
        ledger.app,
        models.app,
        client_config,
        completion,
    ],
    help="Operate Quillgate: workspaces, keys, provider keys, usage, ledger and models over gRPC, and the service.",
)
click.version_option(package_name="quillgate", message="%(prog)s %(version)s")(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; `arguments` are those of the process unless given."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    except Exit as exit_:
        return exit_.exit_code
    except Failure as failure:
        return _complain(str(failure), failure.exit_code)
    except click.ClickException as error:
        return _complain(_usage_text(error), error.exit_code)
    except output.StdoutClosed:
        return ExitCode.PIPE_CLOSED
    except BrokenPipeError:  # click writes help and version itself
        output.discard_stdout()
        return ExitCode.PIPE_CLOSED
    except (KeyboardInterrupt, click.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:  # the last resort: what it says could hold a key, where it was cannot
        return _complain(_unexpected_text(error), ExitCode.FAILED)


def _run(arguments: list[str]) -> int:
    """Does by hand what click's own `main` does, which prints a line break on Ctrl-C and ends the process."""
    if any("\udc80" <= ch <= "\udcff" for argument in arguments for ch in argument):
        raise Failure("the arguments are not UTF-8", ExitCode.USAGE)
    completed = complete(app, os.environ)
    if completed is not None:
        return completed
    try:
        with app.make_context(PROGRAM, arguments) as context:
            app.invoke(context)
    except NoArgsIsHelpError as error:
        output.write(error.format_message() + "\n")
        return ExitCode.USAGE
    return ExitCode.OK


def _complain(text: str, exit_code: int) -> int:
    if sys.stderr is not None:
        print(f"quillgate: {output.clean(text)}", file=sys.stderr)
    return exit_code


def _usage_text(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    text = " ".join(error.format_message().split()).rstrip(".")
    return text if context is None else f"{text}; see `{context.command_path} --help`"


def _unexpected_text(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__} in {frame.name} (line {frame.lineno}); please report it"
