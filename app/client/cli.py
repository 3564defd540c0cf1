"""The `enginesmith` command line: global options, the commands, and the exit codes.

Exit codes: 0 done, 1 job failed, 2 usage, 3 gate missed, 4 cannot reach, 130 interrupted.
"""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from app.client.commands import build, listing, push, run
from app.client.commands.accuracy import accuracy
from app.client.commands.bench import bench
from app.client.commands.demo import demo
from app.client.commands.migrate import migrate
from app.client.commands.tables import tables
from app.client.problems import ClientProblem
from app.client.screen import Screen
from app.client.session import DONE, INTERRUPTED, Session, exit_code_from_problem
from app.client.transport import DEFAULT_SERVER

PROGRAM = "enginesmith"
_HELP = (
    "Calibrate ONNX models and build INT8 engines. Exit codes: 0 done, 1 job failed, 2 usage, 3 gate missed, 4 cannot reach."
)

cli = typer.Typer(help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False)
cli.command()(run.serve)
cli.command()(run.worker)
cli.command()(demo)
cli.command()(push.push_model)
cli.command()(push.push_dataset)
cli.command()(build.calibrate)
cli.command()(build.build)
cli.command()(build.wait)
cli.command()(build.pull)
cli.command()(migrate)
cli.command()(listing.models)
cli.command()(listing.datasets)
cli.command()(listing.workers)
cli.add_typer(listing.jobs, name="jobs")
cli.add_typer(tables, name="table")
bench.command("accuracy")(accuracy)
cli.add_typer(bench, name="bench")


@cli.callback()
def global_options(
    context: typer.Context,
    server: Annotated[str, typer.Option(envvar="ENGINESMITH_SERVER", help="Address of the server.")] = DEFAULT_SERVER,
    token: Annotated[str | None, typer.Option(envvar="ENGINESMITH_TOKEN", help="Token of the server.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON document on stdout, all else on stderr.")] = False,
) -> None:
    context.obj = Session(server, token, Screen(json_output))


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what can be expected to go wrong is told in one line."""
    ordered = globals_first(arguments)
    screen = Screen("--json" in ordered)
    try:
        return int(cli(ordered, prog_name=PROGRAM, standalone_mode=False) or DONE)
    except typer.TyperException as error:
        if not ordered or error.format_message():
            screen.error({"code": "usage", "detail": f"{error.format_message()} `{PROGRAM} --help` shows the options."})
        return error.exit_code
    except ClientProblem as problem:
        screen.error(problem.document)
        return exit_code_from_problem(problem)
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED


def globals_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with --json, --server and --token in front, so that they may stand anywhere."""
    front: list[str] = []
    rest = list(arguments)
    place = 0
    while place < len(rest) and rest[place] != "--":
        count = _global_length(rest[place])
        front += rest[place : place + count]
        del rest[place : place + count]
        place += not count
    return front + rest


def _global_length(argument: str) -> int:
    if argument in ("--server", "--token"):
        return 2
    return int(argument == "--json" or argument.startswith(("--server=", "--token=")))


if __name__ == "__main__":
    main()
