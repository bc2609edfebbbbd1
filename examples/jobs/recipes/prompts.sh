# What all recipes begin with; sourced by them. Prompts of the training split, a mix of all tasks but the single objects, which
# are all part of the evaluation, and some kept apart to see what came of it.
set -eu
out=${1:-out/recipes}
steps=${2:-100}
weights=examples/demo/weights
cargo build --release --all-features --example demo --example annotate --example align --example geneval
bin=${CARGO_TARGET_DIR:-target}/release/examples
mkdir -p "$out"
$bin/demo prompts --seed 61 --count 900 --out "$out/all.jsonl"
head -n 750 "$out/all.jsonl" > "$out/prompts.jsonl"
tail -n 150 "$out/all.jsonl" > "$out/kept.jsonl"
# Texts of both files are left out of what is trained on.
cat examples/demo/eval_prompts.jsonl "$out/kept.jsonl" > "$out/left-out.jsonl"
