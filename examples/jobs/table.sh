#!/bin/sh
# README's tables of strategies, the curves over candidates and the plot, in one: every row of `compare`, and those of the
# models that align.sh makes, which runs first where they are missing. Kill it and start it again: it goes on where it was,
# and says how far it is.
#   table.sh [FOLDER [DEVICE]]
set -eu
out=${1:-out/align}
device=${2:-cpu}
for model in dpo iterative guided; do
  # The last file of a run: behind the merged model.
  if [ ! -f "$out/$model/adapter_config.json" ]; then
    sh "$(dirname "$0")/align.sh" "$out" "$device"
  fi
done
cargo run --release --all-features --example compare -- --device "$device" --format q8_0 --activations a8 --timed 3 \
  --aligned "dpo=$out/dpo/merged" --aligned "iterative=$out/iterative/merged" --aligned "guided=$out/guided/merged" \
  --out "$out/table"
