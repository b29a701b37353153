"""What authors write inside manifests: CEL, minijinja templates and JSON Schema.

The worker evaluates them, the admission webhook and `everesthood validate` read them; both do it here.
"""

from everesthood.adapters.languages.languages import Languages

__all__ = ["Languages"]
