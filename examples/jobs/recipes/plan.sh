#!/bin/sh
# A text plan before each picture, words and codes trained together on the reward of the picture (T2I-R1, ReasonGen-R1).
. "$(dirname "$0")/prompts.sh"
# Supervised first: pictures that the rules accept. The bundled Janus has learnt to write plans from drawn scenes.
$bin/annotate --prompts "$out/prompts.jsonl" --evaluation "$out/left-out.jsonl" --limit 200 --images 8 --sets outcome \
  --model-dir $weights/janus --guidance 2 --out "$out/right.jsonl"
$bin/align --objective supervised --items "$out/right.outcome.jsonl" --shuffle --batch 16 --rate 3e-4 --merge \
  --model-dir $weights/janus --out "$out/supervised"
# Then groups of 8 with the adaptive entropies of ReasonGen-R1; here near what the model begins with.
$bin/align --objective grpo --plan --entropy 0.3 3 --scorer rules --groups 4 --tries 2 --rate 3e-4 --steps "$steps" \
  --model-dir "$out/supervised/merged" --guidance 2 --prompts "$out/prompts.jsonl" --evaluation "$out/left-out.jsonl" \
  --check "$out/kept.jsonl" --merge --out "$out/plan"
