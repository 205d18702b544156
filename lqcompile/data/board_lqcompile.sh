#!/bin/sh
# lqcompile on a board: the board's own Python, and the packages beside this file. Nothing is installed, and removing
# the folder removes it all. LQCOMPILE_PYTHON is the Python to use instead of python3.
set -eu
here=$(dirname "$(readlink -f "$0")")
python=${LQCOMPILE_PYTHON:-python3}

fail() {
  echo "lqcompile: error: $1" >&2
  exit 1
}

command -v "$python" >/dev/null || fail "found no $python, expected Python 3; sudo apt install python3"
found=$("$python" -c 'import platform, sys
print("%d.%d" % sys.version_info[:2], platform.machine() if sys.maxsize > 2**32 else "32-bit")') ||
  fail "$python does not start"
machine=$(cat "$here/machine")
[ "${found#* }" = "$machine" ] ||
  fail "found a Python for ${found#* } here, expected $machine; install the 64-bit system, or make the bundle for this one"
made_for=$(cd "$here" && printf ' %s' python*)
[ -d "$here/python${found% *}" ] ||
  fail "found Python ${found% *} here, expected one of:$made_for; make the bundle with --python"
PYTHONNOUSERSITE=1 PYTHONPATH="$here/common:$here/python${found% *}" exec "$python" -P -m lqcompile "$@"
