"""Everesthood: a Kubernetes operator that runs a multi-tenant marketplace of AI agents."""

__version__ = "0.1.0"
