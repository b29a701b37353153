"""Certificates for a day, made by openssl."""

import shutil
import subprocess
from pathlib import Path


def make_certificate(folder: Path, name: str, *, alternative: str = "DNS:localhost") -> Path:
    """Write tls.crt and tls.key into the folder, signed by themselves, and return the folder."""
    openssl = shutil.which("openssl")
    assert openssl, "install openssl: the tests of the webhook need a certificate"
    folder.mkdir(parents=True, exist_ok=True)
    key, crt = folder / "tls.key", folder / "tls.crt"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", str(key), "-out", str(crt), "-days", "1", "-subj", f"/CN={name}",
         "-addext", f"subjectAltName={alternative}"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder
