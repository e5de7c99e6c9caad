#!/usr/bin/env bash
# The first minutes on a GPU, about eight: the tests that need one, the training step, and the suite `ci` beside the CPU's scores.
# Writes benchmarks/results/<gpu>.first.json and .md; a part that fails is told there, the others run on.
#   benchmarks/first_gpu_run.sh          on the GPU
#   benchmarks/first_gpu_run.sh cpu      a rehearsal on the CPU, with small nets
set -uo pipefail
cd "$(dirname "$0")/.."
device=${1:-cuda}
export PATH="$PWD/.venv/bin:$PATH"
case $device in
    cuda) nets=4x512 executions=eager,graph,compiled-graph ;;
    cpu) nets=2x16 executions=eager ;;
    *) echo "$0: $device (allowed: cuda, cpu)" >&2; exit 2 ;;
esac
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

part() {
    local name=$1 start=$SECONDS code=0
    shift
    echo "== $name: $*"
    timeout 240 "$@" 2>&1 | tee "$out/$name.log" || code=$?
    echo "$name $code $((SECONDS - start))" >> "$out/parts"
}

suite() {
    git clone --quiet . "$out/project" && cd "$out/project" || return
    sed "s/device: cpu, execution: eager, tf32: false/device: $device, execution: auto, tf32: true/" suites/ci.yaml > params.yaml
    grep "device: $device, execution: auto" params.yaml || return
    python -m dvc repro report
}

part tests python -m pytest -rs -p no:cacheprovider tests/test_graph.py tests/test_determinism.py tests/test_resources.py
part step python -m benchmarks.step --device "$device" --nets "$nets" --seeds 1,8 --methods fidec,fql,fidec-official \
    --regimes bank,joint --executions "$executions" --rounds 4 --transitions 100000 --out "$out/step"
export -f suite # timeout runs programs, not functions
export out device
part suite bash -c suite
python -m benchmarks.first_gpu_page --folder "$out"
