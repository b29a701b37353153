"""The REST API: people and programs start, watch and stop runs here."""
