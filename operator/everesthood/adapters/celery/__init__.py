"""Celery, as a doorbell: it hears that there is work and does none itself.

Importing this package imports Celery, half a second and 20 MiB: do it after the first claim.
"""

from everesthood.adapters.celery.app import build_app
from everesthood.adapters.celery.consumer import BellConsumer

__all__ = ["BellConsumer", "build_app"]
