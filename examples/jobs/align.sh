#!/bin/sh
# The whole loop on the bundled models: pictures of training prompts, pairs of them, DPO; pictures of the aligned model,
# pairs, and DPO again, without and with rewards of what it draws meanwhile; all of them on the held-out prompts. Kill it
# and start it again: every program goes on where it was, and the files have the same bytes.
set -eu
out=${1:-out/align}
seeds=4
weights=examples/demo/weights
cargo build --release --all-features --example demo --example annotate --example align --example geneval
bin=target/release/examples
mkdir -p "$out"
# A merged model and what belongs to it.
aligned() { echo "--model-dir $out/$1/merged --tokenizer-dir $weights/magvitv2 --guidance 3"; }

$bin/demo prompts --seed 21 --count 900 --out "$out/prompts.jsonl"
$bin/annotate --prompts "$out/prompts.jsonl" --limit 100 --seed 1 --pairs 2 --out "$out/round-1.jsonl"
$bin/align --pairs "$out/round-1.pairs.jsonl" --steps 60 --rate 3e-4 --masks shared --merge --out "$out/dpo"

# shellcheck disable=SC2046
$bin/annotate --prompts "$out/prompts.jsonl" --limit 60 --seed 2 --pairs 2 $(aligned dpo) --out "$out/round-2.jsonl"
# shellcheck disable=SC2046
$bin/align --pairs "$out/round-2.pairs.jsonl" --steps 36 --rate 3e-4 --masks shared --merge $(aligned dpo) \
  --out "$out/iterative"
# shellcheck disable=SC2046
$bin/align --objective guided --guide pairs --groups 1 --prompts "$out/prompts.jsonl" \
  --pairs "$out/round-2.pairs.jsonl" --steps 36 --rate 3e-4 --masks shared --merge $(aligned dpo) --out "$out/guided"

$bin/geneval --images $seeds --out "$out/plain.eval.jsonl"
for model in dpo iterative guided; do
  # shellcheck disable=SC2046
  $bin/geneval --images $seeds --limit 108 $(aligned $model) --out "$out/$model.eval.jsonl"
  $bin/geneval --compare "$out/plain.eval.jsonl" "$out/$model.eval.jsonl"
done

# The judge, taught on the pictures of the first round, and how well it tells right pictures of the held-out prompts from
# wrong ones, before and after, by the detector that labels nothing.
$bin/align --objective judge --items "$out/round-1.outcome.jsonl" --batch 16 --steps 120 --rate 1e-3 --merge \
  --check examples/demo/eval_prompts.jsonl --out "$out/judge"
