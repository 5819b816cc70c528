"""Generates the stubs of the contract beside its .proto files, or checks that those there are current.

    python scripts/protos.py            generate them
    python scripts/protos.py --check    say which differ from what would be generated; exit code 1 if any does

Needs the development environment (``make setup``): grpcio-tools and mypy-protobuf of exactly the locked versions.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent.parent / "protos"
STUB_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def generate(protos: Path, out: Path) -> None:
    """Write the stubs of every .proto file below a folder into another; CalledProcessError when protoc refuses one."""
    sources = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    plugins = Path(sys.executable).parent  # protoc-gen-mypy and protoc-gen-mypy_grpc are found beside the interpreter
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(protos)]
    for plugin, options in (("python", ""), ("grpc_python", ""), ("mypy", "quiet:"), ("mypy_grpc", "quiet:")):
        command.append(f"--{plugin}_out={options}{out}")
    environment = os.environ | {"PATH": f"{plugins}{os.pathsep}{os.environ.get('PATH', '')}"}
    subprocess.run([*command, *sources], check=True, env=environment)


def read_stubs(folder: Path) -> dict[str, bytes]:
    """Return the stubs below a folder: relative name to content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.name.endswith(STUB_SUFFIXES)
    }


def outdated(protos: Path) -> list[str]:
    """Return what is wrong with the stubs below a folder, a line for each file; nothing where all are current."""
    with tempfile.TemporaryDirectory() as temporary:
        generate(protos, Path(temporary))
        wanted = read_stubs(Path(temporary))
    found = read_stubs(protos)
    faults = [f"{name}: missing" for name in sorted(wanted.keys() - found.keys())]
    faults += [f"{name}: belongs to no .proto file" for name in sorted(found.keys() - wanted.keys())]
    faults += [f"{name}: differs" for name in sorted(wanted.keys() & found.keys()) if wanted[name] != found[name]]
    return faults


def main() -> int:
    """Carry out the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="only say whether the stubs are current")
    parser.add_argument("--protos", type=Path, default=PROTOS, help="the contract's folder (default: the project's)")
    arguments = parser.parse_args()
    if not arguments.check:
        generate(arguments.protos, arguments.protos)
        return 0
    faults = outdated(arguments.protos)
    if faults:
        print("The stubs are not what the .proto files say; write them anew with: make protos", *faults, sep="\n  ")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
