#!/bin/sh
# The whole loop on the bundled models: pictures of training prompts, pairs of them, DPO; pictures of the aligned model,
# pairs, and DPO again, without and with rewards of what it draws meanwhile; all of them on the held-out prompts. Kill
# it and start it again: every program goes on where it was, and the files have the same bytes, on a GPU as well:
#   align.sh [FOLDER [DEVICE]]
set -eu
out=${1:-out/align}
on="--device ${2:-cpu}"
weights=examples/demo/weights
cargo build --release --all-features --example demo --example annotate --example align --example geneval \
  --example compare
bin=${CARGO_TARGET_DIR:-target}/release/examples
mkdir -p "$out"
# A merged model and what belongs to it.
aligned() { echo "--model-dir $out/$1/merged --tokenizer-dir $weights/magvitv2 --guidance 3"; }
# Detector and judge mark together, and every picture has a partner across the middle.
marked="--scorer both --across 0.5 --margin 0.3 --pairs 12"
# Tasks take turns: otherwise those with the most pairs win, and the others lose what they win.
dpo="--masks shared --even --beta 0.5 --batch 32 --merge"
fast="--format q8_0 --activations a8"

$bin/demo prompts --seed 61 --count 3000 --out "$out/prompts.jsonl"
# shellcheck disable=SC2086
$bin/annotate $on --prompts "$out/prompts.jsonl" --images 16 --seed 1 $fast $marked --out "$out/round-1.jsonl"
# shellcheck disable=SC2086
$bin/align $on --pairs "$out/round-1.pairs.jsonl" --steps 300 --rate 8e-4 $dpo --out "$out/dpo"

# shellcheck disable=SC2046,SC2086
$bin/annotate $on --prompts "$out/prompts.jsonl" --limit 560 --images 8 --seed 5 $fast $marked $(aligned dpo) \
  --judge-dir $weights/judge --out "$out/round-2.jsonl"
# shellcheck disable=SC2046,SC2086
$bin/align $on --pairs "$out/round-2.pairs.jsonl" --steps 120 --rate 5e-4 $dpo $(aligned dpo) --out "$out/iterative"
# shellcheck disable=SC2046,SC2086
$bin/align $on --objective guided --guide pairs --scorer both --groups 2 --tries 1 --prompts "$out/prompts.jsonl" \
  --pairs "$out/round-2.pairs.jsonl" --steps 90 --rate 5e-4 $dpo $(aligned dpo) --out "$out/guided"

# Each of them on four pictures of every held-out prompt: plain, the better of two with corrections, with PARM, and with PARM
# and corrections. table.sh adds all other rows.
rows=both-corrected-7,both-parm,both-parm-corrected
for model in dpo iterative guided; do
  rows="$rows,$model,$model-corrected-7,$model-parm,$model-parm-corrected"
done
# shellcheck disable=SC2086
$bin/compare $on $fast --aligned "dpo=$out/dpo/merged" --aligned "iterative=$out/iterative/merged" \
  --aligned "guided=$out/guided/merged" --only $rows --scaling 0 --timed 0 --out "$out/table"

# The bundled Janus on pairs of its own pictures, and on rewards of them.
janus="--model-dir $weights/janus --guidance 2"
# shellcheck disable=SC2086
$bin/annotate $on --prompts "$out/prompts.jsonl" --images 16 --seed 1 --pairs 6 $janus --out "$out/janus.jsonl"
# shellcheck disable=SC2086
$bin/align $on --pairs "$out/janus.pairs.jsonl" --steps 200 --rate 2e-4 --even --beta 0.5 --merge $janus \
  --out "$out/janus-dpo"
# shellcheck disable=SC2086
$bin/align $on --objective grpo --even --groups 4 --tries 2 --scorer rules --prompts "$out/prompts.jsonl" --steps 150 \
  --rate 5e-4 --merge $janus --out "$out/janus-grpo"
# shellcheck disable=SC2086
$bin/geneval $on --images 4 $janus --out "$out/janus-plain.eval.jsonl"
for model in janus-dpo janus-grpo; do
  # shellcheck disable=SC2086
  $bin/geneval $on --images 4 --model-dir "$out/$model/merged" --guidance 2 --out "$out/$model.eval.jsonl"
  $bin/geneval --compare "$out/janus-plain.eval.jsonl" "$out/$model.eval.jsonl"
done

# The judge, taught on the pictures of the first round, and how well it tells right pictures of the held-out prompts from
# wrong ones, before and after, by the detector that labels nothing.
# shellcheck disable=SC2086
$bin/align $on --objective judge --items "$out/round-1.outcome.jsonl" --batch 16 --steps 120 --rate 1e-3 --merge \
  --check examples/demo/eval_prompts.jsonl --out "$out/judge"
