#!/bin/sh
# Print the path of an interpreter of the first given version that works here: `find_python.sh 3.13 3.12`.
# Exit with 1 if there is none. A pyenv shim on PATH fails unless its version is selected, so every candidate is run, and
# pyenv's own folders are searched after PATH.
set -u

works() {
  "$1" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$2')" 2>/dev/null
}

for version in "$@"; do
  IFS=:
  for python in $PATH "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/"$version".*/bin; do
    python=$python/python$version
    if [ -x "$python" ] && works "$python" "$version"; then
      echo "$python"
      exit 0
    fi
  done
done
exit 1
