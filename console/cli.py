"""`popsteer`: the one command. It knows what there is and where; each subcommand loads itself.

Importing this module loads nothing heavy, and the overview is printed without the command-line
library, so that a person who asks what there is never waits.
"""

import difflib
import os
import sys
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING

from popsteer.errors import ConfigError, PopsteerError

if TYPE_CHECKING:
    from cyclopts import App

INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
BROKEN_PIPE = 141
"""128 + SIGPIPE."""
USAGE = 2
"""The command line cannot be understood."""


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand: where its function or app lives, and one line of help."""

    name: str
    target: str
    usage: str
    help: str


GROUPS: dict[str, tuple[Command, ...]] = {
    "Run": (
        Command("up", "console.commands.processes:up", "", "The whole loop on this machine"),
        Command("probe", "console.commands.probe:app", "", "Measure RTT, load and links"),
        Command(
            "aggregate",
            "console.commands.processes:aggregate",
            "",
            "Fold the streams into windows (KCL workers)",
        ),
        Command(
            "plan", "console.commands.processes:plan", "", "Solve, judge and publish the table"
        ),
        Command("serve", "console.commands.processes:serve", "", "Answer DNS from the table"),
        Command("sign", "console.commands.sign:app", "", "Sign the zones ahead; roll their keys"),
        Command(
            "console", "console.commands.processes:console", "", "The POP-health page and its API"
        ),
    ),
    "Ask": (
        Command(
            "explain",
            "console.commands.explain:explain",
            "ADDRESS|PREFIX",
            "Why a client goes where it goes",
        ),
        Command(
            "history",
            "console.commands.history:history",
            "PREFIX|POP",
            "What was measured of a prefix or a POP",
        ),
        Command(
            "query", "console.commands.history:query", "SQL", "What was measured, asked in SQL"
        ),
        Command("whatif", "console.commands.whatif:whatif", "", "What a loss or a surge would do"),
        Command(
            "table",
            "console.commands.table:app",
            "",
            "List, show, compare, verify, compile and roll back tables",
        ),
        Command("orders", "console.commands.orders:orders", "", "The operators' orders in force"),
    ),
    "Order": (
        Command("drain", "console.commands.orders:drain", "POP", "Send nobody to a POP"),
        Command("undrain", "console.commands.orders:undrain", "POP", "End a drain"),
        Command("pin", "console.commands.orders:pin", "PREFIX POP", "Send a prefix to one POP"),
        Command("cap", "console.commands.orders:cap", "POP BPS", "Plan with less capacity"),
        Command("freeze", "console.commands.orders:freeze", "", "Publish no new table"),
    ),
    "Try": (
        Command("lab", "console.lab.commands:app", "", "Change the world under a running `up`"),
        Command(
            "record",
            "console.commands.recordings:record",
            "DIR",
            "Keep what comes through the streams",
        ),
        Command(
            "replay",
            "console.commands.recordings:replay",
            "DIR",
            "A recorded stream through fold, merge and planner",
        ),
        Command("bench", "console.commands.bench:app", "NAME", "Measure popsteer itself"),
    ),
}


def main() -> None:
    """Run the command line; leaves with its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """The exit code of a command line. Errors are one sentence on stderr, without a traceback."""
    if not arguments or arguments in (["--help"], ["-h"], ["help"]):
        print(overview())
        return 0
    if arguments == ["--version"]:
        print(metadata.version("popsteer"))
        return 0
    try:
        _check_command(arguments[0])
        return _dispatch(arguments)
    except PopsteerError as error:
        print(f"popsteer: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; what is still buffered must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


def overview() -> str:
    """What there is, one line each."""
    lines = [
        "popsteer measures the Internet in real time and tells every DNS resolver",
        "which POP its users belong to.",
        "",
        "Usage: popsteer COMMAND [OPTIONS]",
    ]
    commands = [command for group in GROUPS.values() for command in group]
    width = max(len(f"{command.name} {command.usage}") for command in commands)
    for title, group in GROUPS.items():
        lines += ["", f"{title}:"]
        lines += [f"  {f'{c.name} {c.usage}':<{width}}  {c.help}" for c in group]
    lines += ["", "`popsteer COMMAND --help` tells more. Start with: popsteer up"]
    return "\n".join(lines)


def _check_command(name: str) -> None:
    """Refuse what is no command here: the library would import every command to suggest one."""
    known = [command.name for group in GROUPS.values() for command in group]
    if name not in known:
        near = difflib.get_close_matches(name, known, 1, 0.5)
        hint = f"did you mean {near[0]}?" if near else "see: popsteer --help"
        raise ConfigError(f"no command {name!r}; {hint}")


def _dispatch(arguments: list[str]) -> int:
    from cyclopts import CycloptsError

    try:
        result = app()(
            arguments, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as error:
        sentence = " ".join(str(error).split())
        words = " ".join(error.command_chain or arguments[:1])
        print(f"popsteer: {sentence} See: popsteer {words} --help", file=sys.stderr)
        return USAGE
    return result if isinstance(result, int) else 0


def app() -> "App":
    """The commands as a cyclopts app; each is imported when it is run."""
    from cyclopts import App, Parameter

    root = App(
        name="popsteer",
        help=overview(),
        version_flags=(),
        help_flags=("--help", "-h"),
        default_parameter=Parameter(negative=()),  # no --no-json: what is not asked for is off
    )
    for title, group in GROUPS.items():
        for command in group:
            root.command(command.target, name=command.name, group=title)
    return root


if __name__ == "__main__":
    main()
