#!/bin/sh
# All that this repository asks of a GPU, in one: its tests, compute-sanitizer over each of them, whole models over random
# weights, every kernel beside a copy, and PyTorch in the same shapes where there is one. A part leaves a file in FOLDER and
# is not run again while that lies there; one that fails leaves its log and does not stop the others. Tens of minutes, 12 GB.
#   gpu.sh [FOLDER]          PYTHON: an interpreter with torch        JOBS: sanitizers at once
#                            SANITIZER: compute-sanitizer's path, where a later one is wanted (RESULTS.md)
set -u
export SANITIZER=${SANITIZER:-compute-sanitizer}

# A process of a sanitizer's part; not to be called by hand.
one() { # FOLDER TOOL NAME PATH TEST
  log=$1/$2.$3.$(echo "$5" | tr : .)
  more=
  # Calls that fail are the crate's own errors, and one test wants one.
  [ "$2" = memcheck ] && more="--report-api-errors no"
  # shellcheck disable=SC2086
  GPU_TESTS=require CARGO_MANIFEST_DIR=$PWD timeout 1800 "$SANITIZER" --tool "$2" $more --error-exitcode 86 \
    "$4" --exact "$5" --test-threads 1 > "$log" 2>&1
  rc=$?
  # The sanitizer's own answer to a test that passes and never calls the GPU.
  [ "$rc" = 255 ] && grep -q "1 passed" "$log" && rc=unused
  echo "$rc $2 $3 $5" > "$log.rc"
}
if [ "${1:-}" = --one ]; then
  shift
  one "$@"
  exit
fi

out=${1:-out/gpu}
jobs=${JOBS:-8}
mkdir -p "$out/models" "$out/sanitizer"
failed=

part() { # NAME COMMAND..
  name=$1
  shift
  [ -e "$out/$name.txt" ] && return
  echo "$name"
  if "$@" > "$out/$name.log" 2>&1; then
    mv "$out/$name.log" "$out/$name.txt"
  else
    echo "  failed, see $out/$name.log"
    failed="$failed $name"
  fi
}

gpu() { nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader && date -u +%F; }
# The executables of the tests, a line each: name and path.
executables() {
  cargo test --release --all-features --no-run --test cuda --test ops --test golden --test backward 2>&1 |
    sed -n 's/.*Executable tests\/\([a-z]*\).*(\(.*\))$/\1 \2/p' > "$out/executables" && [ -s "$out/executables" ]
}
tests() { GPU_TESTS=require cargo test --release --all-features --no-fail-fast --test cuda --test ops --test golden --test backward; }
sanitize() { # One process a test: TOOL
  while read -r name path; do
    "$path" --list | sed -n "s|: test\$|| p" | sed "s|^|$1 $name $path |"
  done < "$out/executables" | xargs -P "$jobs" -L 1 sh benches/gpu.sh --one "$out/sanitizer"
  sort "$out/sanitizer/$1".*.rc | awk '$1 != "0" && $1 != "unused" { print; bad = 1 } { n[$1]++ }
    END { for (rc in n) print n[rc] " tests ended with " rc; exit bad || !n["0"] }'
}
model() { # NAME
  [ -e "$out/models/$1.done" ] && return
  "$bin/synthetic" "$1" --format q4_g128 --out "$out/models/$1" && touch "$out/models/$1.done"
}
models() { for m in show-o-256 magvit-v2 llava-onevision-7b janus-pro-7b; do model "$m" || return; done; }
measure() { "$bin/measure" --format q4_g128 "$@"; }
show_o="--model-dir $out/models/show-o-256 --tokenizer-dir $out/models/magvit-v2"
judge="--judge-dir $out/models/llava-onevision-7b"
halves="--activations bf16 --kv bf16"
parm="--judge-kv bf16 --candidates 20 --steps 18 --parm --warm --script survive"
bin=${CARGO_TARGET_DIR:-target}/release/examples

part gpu gpu
if [ -n "$failed" ]; then
  echo "there is no GPU here"
  exit 1
fi
part build cargo build --release --all-features --examples
part executables executables
part tests tests
if "$SANITIZER" --version > "$out/sanitizer/version" 2>&1; then
  part memcheck sanitize memcheck
  part racecheck sanitize racecheck
else
  echo "no compute-sanitizer: nothing of that"
fi
part models models
# shellcheck disable=SC2086
for device in cuda cublaslt; do
  on="--device $device"
  part "show-o-1-$device" measure $on $show_o $halves --candidates 1 --batch 1 --steps 5
  part "show-o-20-$device" measure $on $show_o $halves --candidates 20 --batch 20 --steps 5
  part "judge-1-$device" measure $on --model-dir "$out/models/llava-onevision-7b" $halves --judge-kv bf16 --candidates 1 --views 1
  part "judge-20-$device" measure $on --model-dir "$out/models/llava-onevision-7b" $halves --judge-kv bf16 --candidates 20 --views 20
  part "parm-$device" measure $on $show_o $judge $halves $parm --batch 20 --views 20
done
# shellcheck disable=SC2086
for kv in q8 bf16; do
  janus="--device cuda --model-dir $out/models/janus-pro-7b --activations a8 --kv $kv --steps 24"
  part "janus-1-$kv" measure $janus --candidates 1 --batch 1
  part "janus-20-$kv" measure $janus --candidates 20 --batch 20
done
# shellcheck disable=SC2086
part parm-one-by-one measure --device cuda $show_o $judge $halves $parm --batch 1 --views 1
# shellcheck disable=SC2086
part parm-from-9 measure --device cuda $show_o $judge $halves $parm --batch 20 --views 20 --min-clarity-step 9
part gradients "$bin/align_cost" --device cuda --steps 3
part kernels "$bin/kernel_report" --device cuda
part steps env DEVICE=cuda cargo bench -p maquette-benches --bench steps
if [ -n "${PYTHON:-}" ]; then
  part torch "$PYTHON" benches/torch_gpu.py
  part torch-compiled "$PYTHON" benches/torch_gpu.py --compile
else
  echo "no PYTHON with torch is named: nothing of that"
fi
if [ -n "$failed" ]; then
  echo "failed:$failed"
  exit 1
fi
echo "-> $out"
