"""One technology a package: each implements ports, translates errors and decides nothing."""
