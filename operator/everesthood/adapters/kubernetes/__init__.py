"""Everything that speaks to a Kubernetes API server, and what is kept of its answers."""
