"""Settings: the only reader of the environment. `.env.example` is generated from this class.

A plain dataclass: a library for it would be a seventh of what a resting worker keeps in memory.
"""

import os
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Self

import msgspec


def _told(default: Any, description: str, *, secret: bool = False) -> Any:  # noqa: ANN401 - as `field` is typed
    return field(default=default, metadata={"description": description}, repr=not secret)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a process can be told, each as EVERESTHOOD_<NAME>."""

    log_level: str = _told("info", "debug, info, warning or error.")
    namespace: str = _told("everesthood-system", "Namespace of the installation.")
    identity: str = _told("", "Name of this process in leases and logs: the pod name.")

    database_url: str = _told("", "PostgreSQL address; or database_url_file.", secret=True)
    database_url_file: str = _told("", "File with the PostgreSQL address; read anew at each connect.")
    database_pool_size: int = _told(10, "Connections per process.")

    redis_host: str = _told("127.0.0.1", "Host of Redis or Valkey.")
    redis_port: int = _told(6379, "Port of Redis or Valkey.")
    redis_tls: bool = _told(False, "Speak TLS to Redis.")
    redis_user: str = _told("default", "User of this process.")
    redis_password_file: str = _told("", "File with the password of this process.")
    redis_ca_file: str = _told(
        "", "File with the certificate authority of Redis; empty means those of the system."
    )
    redis_bell_password_file: str = _told(
        "", "File with the password of the user that web and gateway ring with; scheduler only."
    )
    bell_key_file: str = _told("", "File with the key that workers' broker passwords are derived from.")
    fingerprint_key_file: str = _told("", "File with the key of credential fingerprints.")

    http_host: str = _told("", "Address that web or gateway listens on; empty means all.")
    http_port: int = _told(8080, "Port of web or gateway.")
    metrics_port: int = _told(9090, "Port of /metrics, /healthz and /readyz.")
    admission_port: int = _told(8443, "Port of the admission webhook.")
    admission_cert_dir: str = _told("/etc/everesthood/tls", "Folder of tls.crt and tls.key.")

    gateway_url: str = _told("http://everesthood-gateway:8080", "Where workers reach the gateway.")
    gateway_token_file: str = _told("/var/run/secrets/everesthood/gateway/token", "The worker's token.")
    revision: str = _told("", "Revision of its template that this worker executes.")
    worker_image: str = _told("", "Image of workers whose template names none.")
    worker_image_pull_policy: str = _told("IfNotPresent", "Pull policy of workers.")
    worker_grace_seconds: int = _told(30, "Time that a stopping worker has for its runs.")
    rollout_seconds: int = _told(300, "Time that workers of a new revision have to become available.")
    worker_priority_class: str = _told("", "PriorityClass of workers.")
    worker_scheduling: str = _told(
        "{}",
        "JSON object with nodeSelector, tolerations and imagePullSecrets of worker pods.",
    )

    internal_hosts: str = _told(
        "",
        "Hosts inside the cluster that agents may call, `host:port`, comma-separated.",
    )
    internal_peers: str = _told(
        "[]",
        "JSON list of NetworkPolicy egress rules that open those hosts to workers.",
    )
    metrics_peers: str = _told(
        "[]",
        "JSON list of NetworkPolicy peers that may scrape workers, besides our own namespace.",
    )
    blocked_cidrs: str = _told(
        "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,100.64.0.0/10",
        "Networks that workers' NetworkPolicies shut, comma-separated.",
    )

    limits: str = _told(
        "{}",
        "JSON object of limits on runs: platform {concurrency, rate}, organization {concurrency, rate} for"
        " each, organizations {NAMESPACE: {concurrency, rate, weight}}; gateway only.",
    )
    lease_seconds: int = _told(30, "How long a worker holds a run without a heartbeat.")
    bell_repair_seconds: float = _told(2.0, "Age of due, unclaimed work that is rung for again.")
    keep_runs_days: int = _told(
        30, "Days for which runs are kept that succeeded, were cancelled or expired; 0 means for ever."
    )
    keep_dead_runs_days: int = _told(90, "Days for which dead and ambiguous runs are kept.")
    keep_log_lines_days: int = _told(14, "Days for which lines of runs' logs are kept, at most as the run.")
    keep_keys_days: int = _told(7, "Days for which a repeat with the same Idempotency-Key is recognized.")
    keep_audit_days: int = _told(365, "Days for which the audit log is kept.")
    reconcile_workers: int = _told(16, "Objects that the controller handles at once.")
    resync_seconds: int = _told(600, "Period of the controller's full comparison.")
    kubeconfig: str = _told("", "kubeconfig file; empty means the pod's own account.")
    local_world: str = _told(
        "", "File that stands in for Kubernetes under `everesthood dev`; needs http_host 127.0.0.1."
    )
    node_selector_fake: bool = _told(False, "Tolerate the taint of simulated nodes; for scale tests.")

    @classmethod
    def read(cls) -> Self:
        """Return what the environment says; a value that makes no sense ends the process with its name."""
        return cls(
            **{
                one.name: _parsed(variable_of(one.name), text, one.type)
                for one in fields(cls)
                if (text := os.environ.get(variable_of(one.name))) is not None
            }
        )

    @cached_property
    def internal_host_set(self) -> frozenset[str]:
        """Return the internal hosts that agents may call."""
        return frozenset(filter(None, (h.strip() for h in self.internal_hosts.split(","))))


def variable_of(name: str) -> str:
    """Return the environment variable of a setting."""
    return f"EVERESTHOOD_{name.upper()}"


def _parsed(variable: str, text: str, kind: Any) -> Any:  # noqa: ANN401 - of whichever type the setting is
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError:
        # The text is not repeated: it may be a secret in the wrong place.
        raise SystemExit(f"{variable} must be of type {kind.__name__}.") from None
