#!/bin/sh
# A reward for each stage: a plan by four pictures of it, a picture by itself and by four that go on from it halfway
# (Visual-CoG).
. "$(dirname "$0")/prompts.sh"
$bin/align --objective grpo --plan --stages 4 --scorer rules --groups 2 --group 4 --tries 2 --rate 3e-4 --steps "$steps" \
  --model-dir $weights/janus --guidance 2 --prompts "$out/prompts.jsonl" --evaluation "$out/left-out.jsonl" \
  --check "$out/kept.jsonl" --merge --out "$out/stages"
