"""The commands for people."""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer
from typer._completion_shared import get_completion_script

from everesthood import __version__
from everesthood.entrypoints.cli import catalogue
from everesthood.entrypoints.cli.api import Connection
from everesthood.entrypoints.cli.control import org, queue
from everesthood.entrypoints.cli.decide import approve, resolve
from everesthood.entrypoints.cli.exits import Code, Stopped
from everesthood.entrypoints.cli.kubectl import Kubectl
from everesthood.entrypoints.cli.main import PROCESSES, start
from everesthood.entrypoints.cli.replay import replay
from everesthood.entrypoints.cli.runs import logs, run, runs, schedules
from everesthood.entrypoints.cli.status import status

PROGRAM: Final = "everesthood"
_SLOW: Final = {"dev", "migrate", "validate"}
_QUICK: Final = {
    "run",
    "replay",
    "runs",
    "logs",
    "schedules",
    "approve",
    "resolve",
    "queue",
    "org",
    "status",
    "explain",
    "version",
    "completion",
    *PROCESSES,
} - _SLOW
_PROCESS_HELP: Final = {
    "controller": "Reconcile the kinds of Everesthood (a process of the installation).",
    "admission": "Serve the validating webhook (a process of the installation).",
    "gateway": "Serve the workers (a process of the installation).",
    "web": "Serve the REST API (a process of the installation).",
    "scheduler": "Fire schedules, rescue runs and repair bells (a process of the installation).",
    "worker": "Execute the runs of one AgentInstance (started by the controller).",
}

app = typer.Typer(
    name=PROGRAM,
    help=(
        "Run agents on Kubernetes.\n\n"
        "Exit codes: 0 done (with --follow: the run succeeded), 1 refused or the run did not succeed,"
        " 2 the command or the input cannot be read, 3 the API cannot be reached."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def connection(
    context: typer.Context,
    *,
    server: Annotated[
        str,
        typer.Option(
            envvar="EVERESTHOOD_SERVER",
            help="Address of the API. Without it, kubectl forwards a port for as long as the command lasts.",
        ),
    ] = "",
    token: Annotated[
        str,
        typer.Option(
            envvar="EVERESTHOOD_TOKEN",
            help="Token to call with. Without it, the kubeconfig's, or one of the CLI's ServiceAccount.",
        ),
    ] = "",
    kube_context: Annotated[str, typer.Option("--context", help="Context of the kubeconfig.")] = "",
    system_namespace: Annotated[
        str,
        typer.Option(envvar="EVERESTHOOD_SYSTEM_NAMESPACE", help="Namespace where Everesthood is installed."),
    ] = "everesthood-system",
    kubectl: Annotated[str, typer.Option(envvar="KUBECTL", help="The kubectl program.")] = "kubectl",
) -> None:
    """Keep how the API is reached."""
    context.obj = Connection(
        server=server,
        token=token,
        kubectl=Kubectl(binary=kubectl, context=kube_context),
        system_namespace=system_namespace,
    )


@app.command()
def explain(
    reason: Annotated[
        str, typer.Argument(help="Reason, as a condition, an event or a refusal says it.")
    ] = "",
) -> None:
    """Say what a reason means; without one, list all."""
    if reason:
        typer.echo(catalogue.explain(reason))
        return
    for name, sentence in catalogue.sentences().items():
        typer.echo(f"{name}\n  {sentence}")


@app.command()
def version() -> None:
    """Say which version this is."""
    typer.echo(__version__)


@app.command()
def completion(
    shell: Annotated[str, typer.Argument(help="bash, zsh, fish or powershell.")],
) -> None:
    """Write the script that completes commands, such as: source <(everesthood completion bash)."""
    if shell not in {"bash", "zsh", "fish", "powershell"}:
        raise Stopped(f"There is no completion for {shell!r}.", Code.USAGE, "bash, zsh, fish or powershell.")
    variable = f"_{PROGRAM.upper()}_COMPLETE"
    typer.echo(get_completion_script(prog_name=PROGRAM, complete_var=variable, shell=shell))


def _process(name: str) -> None:
    @app.command(name, help=_PROCESS_HELP[name], rich_help_panel="Processes")
    def process() -> None:
        start(name)


app.command()(run)
app.add_typer(runs, name="runs", help="List, show, cancel and read runs.")
app.command()(logs)
app.command()(schedules)
app.command()(replay)
app.command()(approve)
app.command()(resolve)
app.add_typer(queue, name="queue", help="Show, pause, resume and drain queues.")
app.add_typer(org, name="org", help="Stop an organisation and start it again.")
app.command()(status)
for _name in _PROCESS_HELP:
    _process(_name)


def add_slow(argv: Sequence[str] = ()) -> None:
    """Add the commands whose modules cost half a second, unless the arguments want another one."""
    if _QUICK & set(argv):
        return
    for name in _SLOW - {command.name for command in app.registered_commands}:
        module = import_module(f"everesthood.entrypoints.cli.{name}")
        app.command(name)(getattr(module, name))


def run_app(argv: list[str]) -> None:
    """Run the command of the arguments and end the process with its exit code."""
    add_slow(argv[1:])
    is_plugin = Path(argv[0]).name.startswith("kubectl-")
    try:
        app(args=argv[1:], prog_name="kubectl everesthood" if is_plugin else PROGRAM)
    except Stopped as stopped:
        typer.echo(stopped.message, err=True)
        if stopped.hint:
            typer.echo(stopped.hint, err=True)
        sys.exit(stopped.code)
