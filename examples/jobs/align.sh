#!/bin/sh
# The whole loop on the bundled models: pictures of training prompts, pairs of them, DPO in two legs; pictures of the aligned
# model, pairs, and DPO again, without and with rewards of what it draws meanwhile; all of them on the held-out prompts. Kill
# it and start it again: every program goes on where it was, and the files have the same bytes.
set -eu
out=${1:-out/align}
seeds=4
weights=examples/demo/weights
cargo build --release --all-features --example demo --example annotate --example align --example geneval
bin=target/release/examples
mkdir -p "$out"
# A merged model and what belongs to it.
aligned() { echo "--model-dir $out/$1/merged --tokenizer-dir $weights/magvitv2 --guidance 3"; }
# The tasks take turns: otherwise those with the most pairs win, and the others lose what they win.
dpo="--masks shared --even --beta 0.5 --merge"

$bin/demo prompts --seed 61 --count 3000 --out "$out/prompts.jsonl"
$bin/annotate --prompts "$out/prompts.jsonl" --images 16 --seed 1 --pairs 6 --out "$out/round-1.jsonl"
# shellcheck disable=SC2086
$bin/align --pairs "$out/round-1.pairs.jsonl" --steps 200 --rate 2e-4 $dpo --out "$out/first"
# shellcheck disable=SC2046,SC2086
$bin/align --pairs "$out/round-1.pairs.jsonl" --steps 200 --rate 4e-4 --seed 2 $dpo $(aligned first) --out "$out/dpo"

# shellcheck disable=SC2046
$bin/annotate --prompts "$out/prompts.jsonl" --limit 220 --images 6 --seed 5 --pairs 6 $(aligned dpo) \
  --out "$out/round-2.jsonl"
# shellcheck disable=SC2046,SC2086
$bin/align --pairs "$out/round-2.pairs.jsonl" --steps 70 --rate 3e-4 $dpo $(aligned dpo) --out "$out/iterative"
# shellcheck disable=SC2046,SC2086
$bin/align --objective guided --guide pairs --groups 1 --tries 1 --prompts "$out/prompts.jsonl" \
  --pairs "$out/round-2.pairs.jsonl" --steps 70 --rate 3e-4 $dpo $(aligned dpo) --out "$out/guided"

$bin/geneval --images $seeds --out "$out/plain.eval.jsonl"
for model in dpo iterative guided; do
  # shellcheck disable=SC2046
  $bin/geneval --images $seeds $(aligned $model) --out "$out/$model.eval.jsonl"
  $bin/geneval --compare "$out/plain.eval.jsonl" "$out/$model.eval.jsonl"
done

# The bundled Janus on rewards of its own pictures.
$bin/align --objective grpo --groups 4 --tries 2 --scorer rules --prompts "$out/prompts.jsonl" --steps 150 --rate 5e-4 \
  --model-dir $weights/janus --guidance 2 --merge --out "$out/janus"

# The judge, taught on the pictures of the first round, and how well it tells right pictures of the held-out prompts from
# wrong ones, before and after, by the detector that labels nothing.
$bin/align --objective judge --items "$out/round-1.outcome.jsonl" --batch 16 --steps 120 --rate 1e-3 --merge \
  --check examples/demo/eval_prompts.jsonl --out "$out/judge"
