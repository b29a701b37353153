"""Options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer

from everesthood.entrypoints.cli.api import Api, Connection


class Format(StrEnum):
    """How the answer is written."""

    TEXT = "text"
    JSON = "json"


Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace; without it, the kubeconfig's.")]
Output = Annotated[Format, typer.Option("--output", "-o", help="How the answer is written.")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]
Instance = Annotated[
    str,
    typer.Option("--instance", "-i", help="AgentInstance; needed where your role names single instances."),
]


def open_api(context: typer.Context, namespace: str) -> Api:
    """Return the API as the options say."""
    return Api(context.find_object(Connection) or Connection(), namespace)


def prog(context: typer.Context) -> str:
    """Return the name that the program was called by."""
    return context.find_root().info_name or "everesthood"
