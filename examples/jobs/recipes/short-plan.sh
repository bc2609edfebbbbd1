#!/bin/sh
# The same, and plans beyond 8 words lose reward, the more the easier their prompt is (ShortCoTI).
. "$(dirname "$0")/prompts.sh"
$bin/align --objective grpo --plan --plan-length 8 --length-factor 0.2 --scorer rules --groups 4 --tries 2 --rate 3e-4 \
  --steps "$steps" --model-dir $weights/janus --guidance 2 --prompts "$out/prompts.jsonl" \
  --evaluation "$out/left-out.jsonl" --check "$out/kept.jsonl" --merge --out "$out/short-plan"
