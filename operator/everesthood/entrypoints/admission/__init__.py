"""The validating webhook: answers whether a write to an object of ours may pass."""
