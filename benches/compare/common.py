"""Where things are, for all that measures here."""

import os
import socket
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
PRODUCT = Path(os.environ.get("PRODUCT", TARGET / "release/examples/server")).resolve()
CACHE = Path(os.environ.get("COMPARE_CACHE", Path.home() / ".cache/tower-openai-proxy-compare"))
BINARIES = CACHE / "target/release"
CERTIFICATES = REPOSITORY / "tests/certificates"
CERTIFICATE, KEY, AUTHORITY = (CERTIFICATES / name for name in ("good.pem", "leaf.key", "authority.pem"))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def children(pid):
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
