"""Logs, metrics and health of every process."""

from everesthood.adapters.telemetry.garbage import collect_seldom
from everesthood.adapters.telemetry.health import Check, serve_health
from everesthood.adapters.telemetry.logs import configure_logging

__all__ = ["Check", "collect_seldom", "configure_logging", "serve_health"]
