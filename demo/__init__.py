"""The demo: from nothing to an agent at work on a real Kubernetes. `python -m demo up|down`."""
