"""What use cases need from the outside, as Protocols; one file a noun."""
