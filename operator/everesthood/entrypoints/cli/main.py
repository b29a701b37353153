"""`everesthood`, also `kubectl everesthood`: starts one of the processes, or the commands for people.

A process is started before anything of the command line is loaded, and only its own modules are: a
worker that never serves HTTP never pays for importing FastAPI, Kopf or a Kubernetes client.
"""

import sys
from importlib import import_module
from typing import Final

PROCESSES: Final = {
    "controller": "everesthood.entrypoints.controller.main",
    "admission": "everesthood.entrypoints.admission.main",
    "gateway": "everesthood.entrypoints.gateway.main",
    "web": "everesthood.entrypoints.web.main",
    "scheduler": "everesthood.entrypoints.scheduler.main",
    "worker": "everesthood.entrypoints.worker.main",
    "migrate": "everesthood.entrypoints.cli.migrate",
}
"""Command → module with a `main()`; by name, so that nothing is imported before it is wanted."""


def main() -> None:
    """Do what the arguments say."""
    if sys.argv[1:2] and sys.argv[1] in PROCESSES and len(sys.argv) == 2:  # noqa: PLR2004
        start(sys.argv[1])
    else:
        if sys.argv[1:2] == ["dev"]:
            import_module("everesthood.entrypoints.cli.forks").open_forks()  # it imports while we do
        import_module("everesthood.entrypoints.cli.app").run_app(sys.argv)


def start(process: str) -> None:
    """Run one of the processes until it ends."""
    import_module(PROCESSES[process]).main()


if __name__ == "__main__":
    main()
