#!/usr/bin/env bash
# Run what the speed claims of the README are made with: bench.sh PYTHON [FOLDER]
#
# What takes an hour or more runs with LQCOMPILE_BENCH_LONG=1 only, and GPUs are timed where there is one; the reason of
# what is left out is a line. Names what failed at the end.
set -uo pipefail
python=$1
folder=${2:-$(dirname "$0")/../benchmarks}
long=" accuracy.py snap_training.py tuning.py verify_networks.py "

# Why a benchmark is left out; nothing where it is not.
reason() {
  if [[ $long == *" $1 "* && -z ${LQCOMPILE_BENCH_LONG:-} ]]; then
    echo "it takes an hour or more, LQCOMPILE_BENCH_LONG=1 runs it"
  elif [ "$1" = gpu.py ]; then
    "$python" - <<'PYTHON'
from lqcompile.cuda.driver import Gpu
from lqcompile.errors import DeviceError

try:
    Gpu()
except DeviceError as error:
    print(error)
PYTHON
  fi
}

failed=()
for file in "$folder"/*.py; do
  name=$(basename "$file")
  why=$(reason "$name")
  if [ -n "$why" ]; then
    echo "== $name: left out: $why"
    continue
  fi
  echo "== $name"
  "$python" "$file" || failed+=("$name")
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
