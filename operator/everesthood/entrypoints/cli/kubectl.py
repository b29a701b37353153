"""What the command line gets from kubectl: the namespace, a token, and a way to the API.

kubectl already knows every kind of kubeconfig, so nothing of that is done again here.
"""

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from everesthood.apis import names
from everesthood.entrypoints.cli.exits import Code, Stopped

_SECONDS: Final = 20
_FORWARDING: Final = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """kubectl with the chosen context."""

    binary: str = "kubectl"
    context: str = ""

    def config(self) -> dict[str, Any]:
        """Return the kubeconfig of the context alone; it is empty where there is none."""
        answer = self._run("config", "view", "--minify", "--raw", "--flatten", "-o", "json")
        if answer.returncode:
            if self.context:
                raise Stopped(f"kubectl has no context {self.context!r}.", Code.USAGE)
            return {}
        found: dict[str, Any] = json.loads(answer.stdout)
        return found

    def namespace(self) -> str:
        """Return the namespace of the context."""
        contexts = self.config().get("contexts") or [{}]
        return str((contexts[0].get("context") or {}).get("namespace") or "default")

    def token(self, namespace: str) -> str:
        """Return a token: the kubeconfig's own, or one of the namespace's ServiceAccount for the CLI."""
        config = self.config()
        users = config.get("users") or [{}]
        user: dict[str, Any] = users[0].get("user") or {}
        if user.get("token"):
            return str(user["token"])
        if user.get("tokenFile"):
            return _file(user["tokenFile"])
        if user.get("exec") and (token := _plugin(user["exec"], config)):
            return token
        return self._borrowed(namespace)

    def _borrowed(self, namespace: str) -> str:
        account = names.CLI_SERVICE_ACCOUNT
        answer = self._run("create", "token", account, "-n", namespace, "--audience", names.WEB_AUDIENCE)
        if answer.returncode == 0:
            return answer.stdout.strip()
        raise _no_token(answer.stderr, namespace)

    def instance(self, name: str, namespace: str) -> dict[str, Any] | None:
        """Return an AgentInstance, None where there is none of that name."""
        kind = f"agentinstances.{names.GROUP}"
        answer = self._run("get", kind, name, "-n", namespace, "--ignore-not-found", "-o", "json")
        if answer.returncode:
            last = (answer.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise Stopped(f"kubectl cannot get AgentInstance {name}: {last}", Code.UNREACHABLE)
        found: dict[str, Any] | None = json.loads(answer.stdout) if answer.stdout.strip() else None
        return found

    @contextmanager
    def forward(self, namespace: str, service: str) -> Iterator[str]:
        """Keep a port of this machine that leads to the service; yield its address."""
        # A file, since nobody reads a pipe while the forwarding lasts.
        command = self._command("port-forward", "-n", namespace, f"svc/{service}", ":80")
        with _started(command) as process:
            guard = threading.Timer(_SECONDS, process.kill)
            guard.start()
            try:
                port = _port(process)
            finally:
                guard.cancel()
            if port is None:
                raise _no_way(process, namespace, service)
            yield f"http://127.0.0.1:{port}"

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603 - no shell, and the binary is the user's own choice
                self._command(*arguments), capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except FileNotFoundError as error:
            raise _no_kubectl(self.binary) from error
        except subprocess.TimeoutExpired as error:
            what = " ".join(arguments[:2])
            raise Stopped(f"kubectl {what} took over {_SECONDS} s.", Code.UNREACHABLE) from error

    def _command(self, *arguments: str) -> list[str]:
        context = ["--context", self.context] if self.context else []
        return [self.binary, *context, *arguments]


@contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        process = subprocess.Popen(  # noqa: S603 - no shell, and the binary is the user's own choice
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise _no_kubectl(command[0]) from error
    with process:
        try:
            yield process
        finally:
            process.terminate()


def _port(process: subprocess.Popen[str]) -> int | None:
    for line in process.stdout or ():
        if found := _FORWARDING.search(line):
            # kubectl says "Handling connection" for each one; an unread pipe would stop it in the end.
            for pipe in (process.stdout, process.stderr):
                threading.Thread(target=_drain, args=(pipe,), daemon=True).start()
            return int(found[1])
    return None


def _drain(pipe: Any) -> None:  # noqa: ANN401 - a text stream
    with pipe:
        for _ in pipe:
            pass


def _no_token(said: str, namespace: str) -> Stopped:
    last = (said.strip().splitlines() or ["it says nothing"])[-1]
    account = f"ServiceAccount {names.CLI_SERVICE_ACCOUNT}"
    if "is forbidden" in last:
        why = f"the kubeconfig has none, and you may not create one for {account} in namespace {namespace}"
    elif "not found" in last:
        why = f"the kubeconfig has none, and {account} is not in namespace {namespace}"
    else:
        return Stopped(f"kubectl cannot create a token: {last}.", Code.UNREACHABLE)
    hint = "Give one with EVERESTHOOD_TOKEN, or ask your platform team to enrol the namespace."
    return Stopped(f"There is no token to call the API with: {why}.", Code.REFUSED, hint)


def _no_way(process: subprocess.Popen[str], namespace: str, service: str) -> Stopped:
    said = (process.stderr.read() if process.stderr else "").strip().splitlines()[-1:]
    why = said[0] if said else f"nothing came within {_SECONDS} s"
    hint = "Give the API's address with --server or EVERESTHOOD_SERVER."
    return Stopped(f"kubectl cannot forward to {namespace}/{service}: {why}.", Code.UNREACHABLE, hint)


def _no_kubectl(binary: str) -> Stopped:
    hint = "Install kubectl, name it in KUBECTL, or give --server, --token and -n."
    return Stopped(f"There is no program {binary!r}.", Code.UNREACHABLE, hint)


def _file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise Stopped(f"The kubeconfig's token file cannot be read: {error}.", Code.UNREACHABLE) from error


def _plugin(plugin: dict[str, Any], config: dict[str, Any]) -> str:
    """Return the token of a credential plugin, or nothing when it gives a certificate."""
    clusters = config.get("clusters") or [{}]
    cluster = clusters[0].get("cluster") or {}
    info = {
        "kind": "ExecCredential",
        "apiVersion": plugin.get("apiVersion", "client.authentication.k8s.io/v1"),
        "spec": {
            "interactive": plugin.get("interactiveMode") != "Never",
            **({"cluster": _cluster(cluster)} if plugin.get("provideClusterInfo") else {}),
        },
    }
    own = {one["name"]: one["value"] for one in plugin.get("env") or ()}
    environment = {**os.environ, **own, "KUBERNETES_EXEC_INFO": json.dumps(info)}
    command = [plugin["command"], *(plugin.get("args") or ())]
    try:
        answer = subprocess.run(  # noqa: S603 - what the user's kubeconfig says, as kubectl does
            command, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        status = json.loads(answer.stdout).get("status") or {}
    except (OSError, subprocess.CalledProcessError, ValueError, AttributeError) as error:
        # The output may hold a token, so the error says no more than its kind.
        why = type(error).__name__
        raise Stopped(
            f"The kubeconfig's credential plugin {command[0]!r} failed ({why}).", Code.UNREACHABLE
        ) from None
    return str(status.get("token") or "")


def _cluster(cluster: dict[str, Any]) -> dict[str, Any]:
    kept = (
        "server",
        "tls-server-name",
        "insecure-skip-tls-verify",
        "certificate-authority-data",
        "proxy-url",
    )
    return {key: cluster[key] for key in kept if key in cluster}
