"""The contract: resource types, names, conditions and the wire between gateway and worker."""
