"""`python -m tests.cluster`: the test bed by hand, and the Makefile's way to it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # called by path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.cluster import binaries, images, packages, provider
from tests.cluster.commands import passthrough
from tests.cluster.progress import say
from tests.cluster.settings import TestBedError


def main(argv: Sequence[str]) -> int:
    # Before argparse, which would take kubectl's options for its own.
    if argv and argv[0] in ("kubectl", "helm"):
        return _tool(argv[0], argv[1:])
    arguments = _parser().parse_args(argv)
    match arguments.command:
        case "start":
            return _start(arguments)
        case "stop":
            provider.choose().stop()
            say("the cluster is gone, and nothing is left of it")
        case "status":
            text = provider.choose().status()
            print(text)
            return 0 if text.startswith("running") else 1
        case "build":
            packages.ensure()
            print(binaries.component("kubectl").parent)
            print(binaries.kube_router().parent)
        case "images":
            packages.ensure()
            images.build_all()
            print("\n".join(images.BUILDERS))
        case "load":
            for image in arguments.image:
                provider.choose().load_image(Path(image) if Path(image).is_file() else image)
        case "restart-apiserver":
            provider.choose().restart_apiserver()
    return 0


def _start(arguments: argparse.Namespace) -> int:
    cluster = provider.choose()
    cluster.start(node=not arguments.no_node, fake_nodes=arguments.fake_nodes)
    for image in arguments.image:
        cluster.load_image(image)
    print(cluster.kubeconfig)
    return 0


def _tool(name: str, args: Sequence[str]) -> int:
    cluster = provider.choose()
    if name == "kubectl" and not cluster.status().startswith("running"):
        raise TestBedError("the cluster is not running; start it with `python -m tests.cluster start`")
    program, env = cluster.tool(name)
    return passthrough(program, *args, env=env)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="boot, and print the kubeconfig's path")
    start.add_argument("--no-node", action="store_true", help="the control plane alone")
    start.add_argument("--fake-nodes", type=int, default=0, metavar="N", help="nodes that only pretend")
    start.add_argument("--image", action="append", default=[], metavar="NAME", help="load this image as well")
    commands.add_parser("stop", help="remove every trace")
    commands.add_parser("status", help="what runs; exit code 1 when it does not")
    commands.add_parser("build", help="build the programs into the cache")
    commands.add_parser("images", help="build the images into the cache")
    commands.add_parser("load", help="load images by name or archive").add_argument("image", nargs="+")
    commands.add_parser("restart-apiserver", help="kill the API server and wait for the next")
    commands.add_parser("kubectl", help="kubectl as the cluster's administrator")
    commands.add_parser("helm", help="Helm as the cluster's administrator")
    return parser


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except TestBedError as problem:
        say(f"error: {problem}")
        code = 1
    sys.exit(code)
