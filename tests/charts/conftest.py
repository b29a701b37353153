"""The chart as each kind of installation renders it."""

import pytest
from tests.support.helm import Object, render

GLOBAL = (
    'global={"nodeSelector":{"pool":"platform"},"imagePullSecrets":[{"name":"pull"}],'
    '"tolerations":[{"key":"platform","operator":"Exists"}],"priorityClassName":"high"}'
)
INTERNAL = (
    'egress.internal=[{"host":"models.ai.svc","port":80,"podPort":8080,"namespace":"ai",'
    '"podLabels":{"app":"models"}}]'
)
INSTALLATIONS: dict[str, tuple[str, ...]] = {
    "default": (),
    "trial": ("postgresql.persistence.enabled=false", 'organizations=["acme","globex"]'),
    "outside stores": (
        "postgresql.enabled=false",
        'database.existingSecret.name="db"',
        "redis.enabled=false",
        'redis.existingSecret="bell"',
        'redis.external={"host":"redis.example.com","tls":true,"caKey":"ca.crt","cidrs":["10.1.0.0/16"]}',
    ),
    "GitOps": (
        "certManager.enabled=true",
        'keys.existingSecret="keys"',
        'postgresql.existingSecret="pg"',
        'redis.existingSecret="bell"',
    ),
    "large": (
        "controller.replicas=2",
        "gateway.replicas=3",
        "web.replicas=2",
        "scheduler.replicas=2",
        GLOBAL,
        "monitoring.podMonitor.enabled=true",
        "monitoring.prometheusRule.enabled=true",
    ),
    "internal service": (INTERNAL,),
}


@pytest.fixture(scope="session")
def rendered() -> dict[str, list[Object]]:
    """Return the objects of each kind of installation."""
    return {name: render(*settings) for name, settings in INSTALLATIONS.items()}


@pytest.fixture(params=INSTALLATIONS)
def objects(request: pytest.FixtureRequest, rendered: dict[str, list[Object]]) -> list[Object]:
    """Return the objects of one kind of installation."""
    return rendered[request.param]
