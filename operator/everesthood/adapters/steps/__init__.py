"""How each kind of step is done."""

from everesthood.adapters.steps.registry import Steps

__all__ = ["Steps"]
