#!/bin/sh
# Edits: a right picture of another prompt with half of its steps taken back becomes one of the prompt (EARL).
. "$(dirname "$0")/prompts.sh"
$bin/annotate --prompts "$out/prompts.jsonl" --evaluation "$out/left-out.jsonl" --limit 200 --images 4 --sets outcome \
  --out "$out/sources.jsonl"
$bin/align --objective grpo --edit "$out/sources.outcome.jsonl" --scorer rules --groups 2 --tries 2 --passes 4 \
  --rate 1e-4 --steps "$steps" --prompts "$out/prompts.jsonl" --evaluation "$out/left-out.jsonl" \
  --check "$out/kept.jsonl" --merge --out "$out/edit"
