"""The `agents.everesthood.io/v1alpha1` types: the single source of the CRDs and their reference."""
