"""Settings: the only reader of the environment. `.env.example` is generated from this class."""

from functools import cached_property

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Everything that a process can be told, each as EVERESTHOOD_<NAME>."""

    model_config = SettingsConfigDict(env_prefix="EVERESTHOOD_", frozen=True, secrets_dir=None)

    log_level: str = Field("info", description="debug, info, warning or error.")
    namespace: str = Field("everesthood-system", description="Namespace of the installation.")
    identity: str = Field("", description="Name of this process in leases and logs: the pod name.")

    database_url: SecretStr = Field(SecretStr(""), description="PostgreSQL address; or database_url_file.")
    database_url_file: str = Field(
        "", description="File with the PostgreSQL address; read anew at each connect."
    )
    database_pool_size: int = Field(10, description="Connections per process.")

    redis_host: str = Field("127.0.0.1", description="Host of Redis or Valkey.")
    redis_port: int = Field(6379, description="Port of Redis or Valkey.")
    redis_tls: bool = Field(False, description="Speak TLS to Redis.")
    redis_user: str = Field("default", description="User of this process.")
    redis_password_file: str = Field("", description="File with the password of this process.")
    redis_ca_file: str = Field(
        "", description="File with the certificate authority of Redis; empty means those of the system."
    )
    redis_bell_password_file: str = Field(
        "", description="File with the password of the user that web and gateway ring with; scheduler only."
    )
    bell_key_file: str = Field(
        "", description="File with the key that workers' broker passwords are derived from."
    )
    fingerprint_key_file: str = Field("", description="File with the key of credential fingerprints.")

    http_port: int = Field(8080, description="Port of web or gateway.")
    metrics_port: int = Field(9090, description="Port of /metrics, /healthz and /readyz.")
    admission_port: int = Field(8443, description="Port of the admission webhook.")
    admission_cert_dir: str = Field("/etc/everesthood/tls", description="Folder of tls.crt and tls.key.")

    gateway_url: str = Field(
        "http://everesthood-gateway:8080", description="Where workers reach the gateway."
    )
    gateway_token_file: str = Field(
        "/var/run/secrets/everesthood/gateway/token", description="The worker's token."
    )
    revision: str = Field("", description="Revision of its template that this worker executes.")
    worker_image: str = Field("", description="Image of workers whose template names none.")
    worker_image_pull_policy: str = Field("IfNotPresent", description="Pull policy of workers.")
    worker_grace_seconds: int = Field(30, description="Time that a stopping worker has for its runs.")
    rollout_seconds: int = Field(
        300, description="Time that workers of a new revision have to become available."
    )
    worker_priority_class: str = Field("", description="PriorityClass of workers.")
    worker_scheduling: str = Field(
        "{}",
        description="JSON object with nodeSelector, tolerations and imagePullSecrets of worker pods.",
    )

    internal_hosts: str = Field(
        "",
        description="Hosts inside the cluster that agents may call, `host:port`, comma-separated.",
    )
    internal_peers: str = Field(
        "[]",
        description="JSON list of NetworkPolicy egress rules that open those hosts to workers.",
    )
    metrics_peers: str = Field(
        "[]",
        description="JSON list of NetworkPolicy peers that may scrape workers, besides our own namespace.",
    )
    blocked_cidrs: str = Field(
        "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,169.254.0.0/16,100.64.0.0/10",
        description="Networks that workers' NetworkPolicies shut, comma-separated.",
    )

    lease_seconds: int = Field(30, description="How long a worker holds a run without a heartbeat.")
    bell_repair_seconds: float = Field(2.0, description="Age of due, unclaimed work that is rung for again.")
    reconcile_workers: int = Field(16, description="Objects that the controller handles at once.")
    resync_seconds: int = Field(600, description="Period of the controller's full comparison.")
    kubeconfig: str = Field("", description="kubeconfig file; empty means the pod's own account.")
    node_selector_fake: bool = Field(
        False, description="Tolerate the taint of simulated nodes; for scale tests."
    )

    @cached_property
    def internal_host_set(self) -> frozenset[str]:
        """Return the internal hosts that agents may call."""
        return frozenset(filter(None, (h.strip() for h in self.internal_hosts.split(","))))
