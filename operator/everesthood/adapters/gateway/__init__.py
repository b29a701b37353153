"""The worker's door to the gateway, and the credentials that it leases there."""

from everesthood.adapters.gateway.client import GatewayClient
from everesthood.adapters.gateway.credentials import LeasedCredentials

__all__ = ["GatewayClient", "LeasedCredentials"]
