"""`python -m everesthood.entrypoints.admission`."""

from everesthood.entrypoints.admission.main import main

main()
