"""A stand-in for kubectl: answers what the command line asks of it, as the real one words it."""

import json
import sys
from pathlib import Path
from typing import Any

_SCRIPT = """#!{python}
import json, os, sys, time
told = json.load(open({told!r}))
words = [w for w in sys.argv[1:]]
if words[:1] == ["--context"]:
    context, words = words[1], words[2:]
    if context != "known":
        sys.exit('error: cannot find a context named "' + context + '"')
with open({log!r}, "a") as log:
    log.write(json.dumps(words) + "\\n")
if words[:2] == ["config", "view"]:
    print(json.dumps(told["config"]))
elif words[:2] == ["create", "token"]:
    if "error" in told:
        sys.exit(told["error"])
    print(told["created"])
elif words[:1] == ["get"]:
    if "forbidden" in told:
        sys.exit(told["forbidden"])
    if words[2] in told["objects"]:
        print(json.dumps(told["objects"][words[2]]))
elif words[:1] == ["port-forward"]:
    if not told["port"]:
        sys.exit('Error from server (NotFound): services "everesthood-web" not found')
    open({log!r} + ".pid", "w").write(str(os.getpid()))
    print("Forwarding from 127.0.0.1:%d -> 8080" % told["port"], flush=True)
    print("Forwarding from [::1]:%d -> 8080" % told["port"], flush=True)
    time.sleep(60)
"""


class FakeKubectl:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "kubectl"
        self._told, self._log = folder / "told.json", folder / "log"
        self._log.touch()
        self.path.write_text(_SCRIPT.format(python=sys.executable, told=str(self._told), log=str(self._log)))
        self.path.chmod(0o755)

    def tell(self, *, user: dict[str, Any], port: int = 0, namespace: str = "acme", **more: Any) -> None:
        config = {
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"user": "u", "namespace": namespace}}],
            "clusters": [{"name": "k", "cluster": {"server": "https://k:6443"}}],
        }
        self._told.write_text(json.dumps({"config": config, "port": port, "objects": {}, **more}))

    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]

    def forwarder(self) -> int:
        return int(Path(f"{self._log}.pid").read_text())
