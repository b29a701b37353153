"""`make bench`: each benchmark in a process of its own, its table printed as it comes.

A benchmark is a module of this folder, or a folder of it, that prints ratios against peers run beside it.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> int:
    """Run the named benchmarks, or all; return the number that failed."""
    modules = [p.stem for p in FOLDER.glob("*.py") if p.stem not in {"__main__", "__init__"}]
    known = sorted([*modules, *(p.parent.name for p in FOLDER.glob("*/__main__.py"))])
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}; none: all")
    names = parser.parse_args().names or known
    unknown = sorted(set(names) - set(known))
    if unknown:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(known)}")
    return sum(_run(name) for name in names)


def _run(name: str) -> int:
    print(f"== {name}", flush=True)
    began = time.monotonic()
    code = subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], check=False).returncode
    print(
        f"== {name}: {'ok' if code == 0 else f'failed with {code}'} in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main())
