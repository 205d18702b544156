#!/usr/bin/env bash
# Everything to run on a machine with an NVIDIA GPU, in order; results and logs in one folder.
#
#   make gpu-session                                          sets up first; all steps
#   PYTHON=.venv/bin/python bash benchmarks/gpu_session.sh peaks gemm
#                           some of the steps setup, cases, tests, prepare, peaks, gemm, networks, model and tables; also
#                           sanitize, which checks the same networks under NVIDIA's compute-sanitizer
#
# FOLDER says where results go (default: build/gpu), OPTIONS what else benchmarks/gpu.py gets, LIMIT how many seconds a
# command may take. A session that was stopped goes on where it was. A step that fails is named at the end, and the others
# still run. cases and prepare need no GPU: what they made elsewhere is taken from the folder.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
FOLDER=${FOLDER:-build/gpu}
LIMIT=${LIMIT:-3600}
MOST_CALLS=${MOST_CALLS:-12} # of one part; each takes about 9 minutes at most
read -ra OPTIONS <<<"${OPTIONS:-}"
STEPS=("$@")
[ ${#STEPS[@]} -gt 0 ] || STEPS=(setup cases tests prepare peaks gemm networks model tables)
mkdir -p "$FOLDER"

run() { timeout "$LIMIT" "$PYTHON" "$@"; }
series() { run benchmarks/gpu.py --results "$FOLDER/results.json" --part "$@" ${OPTIONS[@]+"${OPTIONS[@]}"}; }
cases() { run benchmarks/gpu_series/prepared.py "$1" "$FOLDER/cases" "${@:2}"; }

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
  run -m lqcompile targets
}

# Kernels first, each network in a process of its own; then what needs the compiler.
tests() {
  local code=0
  cases check || code=1
  LQCOMPILE_TEST_GPU=1 run -m pytest -q tests/on_gpu -k "not networks_equal" || code=1
  return $code
}

sanitize() {
  local tool code=0
  command -v compute-sanitizer || { echo "found no compute-sanitizer, expected it on the PATH (CUDA toolkit)"; return 1; }
  for tool in memcheck racecheck synccheck initcheck; do
    cases check --limit 600 --only cuda-h200 --under "compute-sanitizer --tool $tool --error-exitcode 1" || code=1
  done
  return $code
}

step() {
  case $1 in
    setup | tests | sanitize) "$1" ;;
    cases) cases make --target "$(series target)" cuda-ptx ;;
    prepare | tables) series "$1" ;;
    peaks | gemm | networks) until_done "$1" ;;
    model) run -m lqcompile bench lqcompile/data/fashion_mnist_w2a2.onnx --target "$(series target)" ;;
    *)
      echo "gpu_session.sh: found step '$1', expected setup, cases, tests, sanitize, prepare, peaks, gemm, networks," \
        "model or tables"
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
  echo "next: read $FOLDER/${failed[0]}.log; 'bash benchmarks/gpu_session.sh ${failed[*]}' repeats what failed"
  exit 1
fi
echo "next: '$PYTHON benchmarks/gpu.py --results $FOLDER/results.json --part tables --write docs/performance.md'"
