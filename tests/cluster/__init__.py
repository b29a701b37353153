"""The test bed: a real Kubernetes on one machine without Docker, or on kind, or one of your own."""
