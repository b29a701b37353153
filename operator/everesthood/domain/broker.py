"""Broker users: what their passwords are. Derived, so that nobody stores or rotates them one by one.

The scheduler gives Redis the digest, the gateway gives the worker the password.
"""

import base64
import hashlib
import hmac

from everesthood.domain.errors import Invalid

_SHORTEST_KEY = 32


def broker_password(bell_key: bytes, instance_uid: str) -> str:
    """Return the password of one instance's broker user."""
    if len(bell_key) < _SHORTEST_KEY:
        raise Invalid(f"The bell key must have at least {_SHORTEST_KEY} bytes.")
    mac = hmac.digest(bell_key, f"broker|{instance_uid}".encode(), "sha256")
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def password_digest(password: str) -> str:
    """Return the form in which Redis keeps a password; the value itself is never sent to it."""
    return hashlib.sha256(password.encode()).hexdigest()
