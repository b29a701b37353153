"""The command line: `everesthood` and `kubectl everesthood`."""
