"""Nodes that only pretend: every pod bound to one is Running and Ready at once, and costs nothing.

They are tainted `fake=true:NoSchedule` and labelled `type=fake`, so only pods that ask come here.
"""

import queue
import sys
import threading
import time
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import count
from pathlib import Path

from tests.cluster.api import MERGE, Api, Object
from tests.cluster.settings import Layout

THREADS = 8
HEARTBEAT_SECONDS = 10
CAPACITY = {"cpu": "1000", "memory": "1000Gi", "pods": "2000", "ephemeral-storage": "1000Gi"}
CONDITIONS = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"


class FakeKubelet:
    """Plays the kubelet of N nodes: registers them, keeps their leases, answers for their pods."""

    def __init__(self, api: Api, nodes: int) -> None:
        self._api = api
        self._nodes = [f"fake-{number}" for number in range(nodes)]
        self._pods: queue.SimpleQueue[Object] = queue.SimpleQueue()
        self._running: set[str] = set()
        self._addresses = count(1)

    def run(self) -> None:
        """Work until the process is killed."""
        for node in self._nodes:
            self._register(node)
        threading.Thread(target=self._keep_leases, daemon=True).start()
        for _ in range(THREADS):
            threading.Thread(target=self._serve, daemon=True).start()
        while True:
            self._follow()
            # Only reached when a watch ends or the API server is away.
            time.sleep(0.2)

    def _register(self, node: str) -> None:
        labels = {"type": "fake", "kubernetes.io/hostname": node}
        taint = {"key": "fake", "value": "true", "effect": "NoSchedule"}
        body = {"metadata": {"name": node, "labels": labels}, "spec": {"taints": [taint]}}
        self._api.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node"} | body)
        now = _now()
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "Fake",
            "lastHeartbeatTime": now,
            "lastTransitionTime": now,
        }
        status = {"capacity": CAPACITY, "allocatable": CAPACITY, "conditions": [ready]}
        self._api.request("PATCH", f"/api/v1/nodes/{node}/status", {"status": status}, MERGE)

    def _keep_leases(self) -> None:
        while True:
            for node in self._nodes:
                self._renew(node)
            time.sleep(HEARTBEAT_SECONDS)

    def _renew(self, node: str) -> None:
        spec = {"holderIdentity": node, "leaseDurationSeconds": 40, "renewTime": _now(micro=True)}
        status, _ = self._api.request("PATCH", f"{LEASES}/{node}", {"spec": spec}, MERGE)
        if status == HTTPStatus.NOT_FOUND:
            lease = {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": node},
                "spec": spec,
            }
            self._api.request("POST", LEASES, lease)

    def _follow(self) -> None:
        """List, then watch from there, until the server ends the watch."""
        listed = self._api.get("/api/v1/pods?resourceVersion=0")
        if listed is None:
            return
        for pod in listed["items"]:
            self._see(pod)
        version = listed["metadata"]["resourceVersion"]
        try:
            for event in self._api.watch(
                f"/api/v1/pods?watch=1&resourceVersion={version}&timeoutSeconds=300"
            ):
                if event["type"] == "ERROR":
                    return
                self._see(event["object"], gone=event["type"] == "DELETED")
        except (OSError, ValueError) as error:
            print("watch ended:", error, flush=True)

    def _see(self, pod: Object, *, gone: bool = False) -> None:
        """Queue what is for us and new; a pod is started once, whatever else changes on it."""
        metadata = pod["metadata"]
        if gone:
            self._running.discard(metadata["uid"])
            return
        if pod["spec"].get("nodeName") not in self._nodes:
            return
        if "deletionTimestamp" in metadata or metadata["uid"] not in self._running:
            self._running.add(metadata["uid"])
            self._pods.put(pod)

    def _serve(self) -> None:
        while True:
            pod = self._pods.get()
            metadata = pod["metadata"]
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            if "deletionTimestamp" in metadata:
                self._api.request(
                    "DELETE", path, {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
                )
            else:
                self._api.request("PATCH", f"{path}/status", {"status": self._running_status(pod)}, MERGE)

    def _running_status(self, pod: Object) -> Object:
        now, number = _now(), next(self._addresses)
        address = f"10.{200 + number // 65000}.{number // 250 % 256}.{number % 250 + 1}"
        return {
            "phase": "Running",
            "startTime": now,
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [
                {"type": name, "status": "True", "lastTransitionTime": now} for name in CONDITIONS
            ],
            "containerStatuses": [_container_status(each, now) for each in pod["spec"]["containers"]],
        }


def _container_status(container: Object, now: str) -> Object:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": True,
        "started": True,
        "restartCount": 0,
        "state": {"running": {"startedAt": now}},
    }


def _now(*, micro: bool = False) -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    _number, _state, _subnet = sys.argv[1:]
    FakeKubelet(Api(Layout(state=Path(_state), subnet=_subnet), keep=True), int(_number)).run()
