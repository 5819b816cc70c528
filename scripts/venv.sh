#!/bin/sh
# Makes the project's virtual environments. `make setup`, `make test-newest` and `make lock` call it:
#
#   scripts/venv.sh locked DIR    the versions that requirements.lock names, and the project itself, editable
#   scripts/venv.sh newest DIR    the newest grpcio and protobuf that pyproject.toml allows; the test tools stay locked
#   scripts/venv.sh lock          resolves the extra [dev] in an empty environment and writes requirements.lock anew
#
# PYTHON names the interpreter; without it the first of python3, python3.14, ... that is new enough is taken.
set -eu
cd "$(dirname "$0")/.."

# What tests need besides the distribution's own requirements, when they do not use the whole of [dev].
TEST_TOOLS='pytest|pytest-asyncio|pytest-timeout|pytest-xdist|hypothesis|hatchling|moto|Flask|flask-cors|py-partiql-parser|PyYAML'

# The stubs are generated with grpcio-tools of this version, it takes twice the unary calls of the newest, and servers on 1.77 and
# 1.78 can crash when they stop (docs/adr).
LOCKED_GRPC='grpcio==1.76.0 grpcio-health-checking==1.76.0 grpcio-reflection==1.76.0'

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

version_of() {
    "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo "not to be found"
}

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if is_new_enough "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    named=${PYTHON:-python3}
    fail "kvserver needs Python 3.11 or newer; $named is $(version_of "$named")." \
        "Install one (Debian, Ubuntu: apt-get install python3.11 python3.11-venv) and name it: make setup PYTHON=python3.11"
}

# Leaves a working pip in DIR/bin, or ends with what to do about it.
create_venv() {
    dir=$1
    if [ -x "$dir/bin/python" ] && ! is_new_enough "$dir/bin/python"; then
        fail "kvserver needs Python 3.11 or newer; the one in $dir is $(version_of "$dir/bin/python")." \
            "Remove that folder and try again: rm -r $dir && make setup"
    fi
    if "$dir/bin/python" -m pip --version >/dev/null 2>&1; then
        return
    fi
    python=$(find_python)
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        fail "$python ($(version_of "$python")) cannot make virtual environments: its module venv or ensurepip is missing." \
            "Install it (Debian, Ubuntu: apt-get install python3-venv, or python$minor-venv) and try again: make setup"
    fi
    echo "making the virtual environment $dir with Python $(version_of "$python")"
    "$python" -m venv "$dir" || fail "the virtual environment $dir could not be made." \
        "Remove what is there of it and try again: rm -rf $dir && make setup"
    echo '*' >"$dir/.gitignore"
}

install() {
    dir=$1
    shift
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$dir/bin/python" -m pip install --quiet --no-input "$@" ||
        fail "pip could not install what is needed; its own message stands above." \
            "Is the package index within reach? Try again with: make setup"
}

# Without build isolation, so that the locked build backend is used and nothing is downloaded twice.
install_project() {
    dir=$1
    extras=$2
    shift 2
    install "$dir" --no-build-isolation "$@" --editable ".$extras"
}

locked() {
    create_venv "$1"
    install "$1" --requirement requirements.lock
    install_project "$1" '' --no-deps
}

newest() {
    create_venv "$1"
    # shellcheck disable=SC2046 # one argument for each tool
    install "$1" $(grep -E "^($TEST_TOOLS)==" requirements.lock)
    install_project "$1" '[s3,bench]' --upgrade --upgrade-strategy eager
}

lock() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    create_venv "$work/venv"
    install "$work/venv" "$(grep -oE 'hatchling[>=0-9.]+' pyproject.toml | head -n 1)"
    # shellcheck disable=SC2086 # one argument for each requirement
    install_project "$work/venv" '[dev]' --upgrade --upgrade-strategy eager $LOCKED_GRPC
    {
        echo '# The exact versions that development and the tests use. Written by `make lock`; do not edit.'
        "$work/venv/bin/python" -m pip freeze --all --exclude pip --exclude-editable
    } >"$work/requirements.lock"
    if grep -n -E '@|://|/' "$work/requirements.lock"; then
        fail "a requirement was taken from a place that others do not have; requirements.lock was left as it is."
    fi
    cp "$work/requirements.lock" requirements.lock
    echo "wrote requirements.lock: $(grep -c == requirements.lock) packages"
}

case "${1:-}" in
locked | newest) [ $# -eq 2 ] || fail "usage: scripts/venv.sh $1 DIR" && "$1" "$2" ;;
lock) lock ;;
*) fail "usage: scripts/venv.sh locked DIR | newest DIR | lock" ;;
esac
