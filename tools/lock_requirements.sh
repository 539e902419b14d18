#!/bin/sh
# Writes the requirements of the container image with the hashes of all their files (deploy/requirements/*.txt), and
# which versions `make` installs to test with (tools/constraints.txt).
# usage: lock_requirements.sh UV    where UV is the program uv; arguments after it go to `uv pip compile` (--upgrade)
set -eu
cd "$(dirname "$0")/.."
uv=$1
shift

# For every system and every Python that we run on, so that another PYTHON_IMAGE needs no other lock. Only PyPI itself:
# mirrors and wheels of this machine may have other files under the same names.
lock() {
	from=$1 to=$2
	shift 2
	env -u PIP_FIND_LINKS -u UV_FIND_LINKS "$uv" pip compile "$from" --quiet --universal --python-version 3.11 \
		--no-annotate --default-index https://pypi.org/simple --custom-compile-command 'make lock' --output-file "$to" "$@"
}

lock pyproject.toml tools/constraints.txt --extra demo --extra dev "$@"
lock pyproject.toml deploy/requirements/penstock.txt --generate-hashes "$@"
lock deploy/requirements/build.in deploy/requirements/build.txt --generate-hashes "$@"
lock deploy/requirements/thumbnails.in deploy/requirements/thumbnails.txt --generate-hashes "$@"
