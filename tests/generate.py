"""Write everything that is generated from something else, or say with `--check` what is stale.

Each generator returns its files as {path: text}; this module alone touches the disk.
"""

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATORS = (
    "everesthood.apis.crds",
    "everesthood.entrypoints.cli.reference",
    "everesthood.entrypoints.web.reference",
    "tests.generators.env",
    "tests.generators.manifests",
)


def main() -> int:
    """Write or compare; return 1 when something is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail when stale")
    check = parser.parse_args().check
    wanted = {
        path: text for name in GENERATORS for path, text in importlib.import_module(name).files().items()
    }
    stale = [path for path, text in sorted(wanted.items()) if _current(path) != text]
    for path in stale:
        print(f"{'stale' if check else 'wrote'}: {path}")
        if not check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(wanted[path])
    if check and stale:
        print("Run `make generate` and commit the result.", file=sys.stderr)
    return int(check and bool(stale))


def _current(path: str) -> str | None:
    target = ROOT / path
    return target.read_text() if target.exists() else None


if __name__ == "__main__":
    sys.exit(main())
