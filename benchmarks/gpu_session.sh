#!/usr/bin/env bash
# Everything to run on a machine with an NVIDIA GPU, in order; results and logs in one folder.
#
#   make gpu-session                                          sets up first; all steps
#   PYTHON=.venv/bin/python bash benchmarks/gpu_session.sh peaks gemm
#                           some of the steps setup, tests, prepare, peaks, gemm, networks, model and tables
#
# FOLDER says where results go (default: build/gpu), OPTIONS what else benchmarks/gpu.py gets. A session that was stopped
# goes on where it was. A step that fails is named at the end, and the others still run.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
FOLDER=${FOLDER:-build/gpu}
MOST_CALLS=${MOST_CALLS:-12} # of one part; each takes about 9 minutes at most
read -ra OPTIONS <<<"${OPTIONS:-}"
STEPS=("$@")
[ ${#STEPS[@]} -gt 0 ] || STEPS=(setup tests prepare peaks gemm networks model tables)
mkdir -p "$FOLDER"

series() { "$PYTHON" benchmarks/gpu.py --results "$FOLDER/results.json" --part "$@" ${OPTIONS[@]+"${OPTIONS[@]}"}; }

# A part whose time is up ends with 3: call it again.
until_done() {
  local call code
  for ((call = 0; call < MOST_CALLS; ++call)); do
    series "$1" && return 0 || code=$?
    [ $code -eq 3 ] || return $code
  done
  return 3
}

setup() {
  nvidia-smi
  "$PYTHON" -m pip list --disable-pip-version-check
  "$PYTHON" -m lqcompile targets
}

step() {
  case $1 in
    setup) setup ;;
    tests) LQCOMPILE_TEST_GPU=1 "$PYTHON" -m pytest -q tests/on_gpu ;;
    prepare) series prepare ;;
    peaks | gemm | networks) until_done "$1" ;;
    model) "$PYTHON" -m lqcompile bench lqcompile/data/fashion_mnist_w2a2.onnx --target cuda ;;
    tables) series tables ;;
    *)
      echo "gpu_session.sh: found step '$1', expected setup, tests, prepare, peaks, gemm, networks, model or tables"
      return 2
      ;;
  esac
}

# Clocks and temperature, between the steps: a GPU that is hot or held back is slower.
state() {
  command -v nvidia-smi >/dev/null || return 0
  nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu,clocks_event_reasons.active --format=csv,noheader
}

failed=()
for name in "${STEPS[@]}"; do
  echo "== $name ($(date -u +%H:%M:%S)) $(state)" | tee -a "$FOLDER/session.log"
  step "$name" 2>&1 | tee "$FOLDER/$name.log" || failed+=("$name")
done
echo "Results and logs are in $FOLDER"
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed: ${failed[*]}"
  exit 1
fi
