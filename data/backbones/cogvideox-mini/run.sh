#!/usr/bin/env bash
# Train on all GPUs where one command may only run for minutes: start it in the background, or look after it.
#
#   run.sh RUNS SECONDS WAIT [COPY]
#
# RUNS      where train.py writes; a run that was killed goes on there
# SECONDS   total time of the run, counted from its first start
# WAIT      how long to look on, at most; returns early when the run is over
# COPY      folder that receives the curves, the last samples and the averaged pipeline in parts of 15 MB
#           (put together by `cat part_* | tar x`)
#
# TRAIN_OPTIONS is handed to train.py, such as "--set autoencoder.compile=none".
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
runs=$1 seconds=$2 wait=$3 copy=${4:-}
mkdir -p "$runs"

running() { # a process that has died but was not waited for is not running
  local status
  [ -e "$runs/pid" ] && status=/proc/$(cat "$runs/pid")/status && [ -r "$status" ] && ! grep -q '^State:.*Z' "$status"
}

export PYTHONPATH="$here/../../..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
if [ ! -e "$runs/began" ]; then date +%s >"$runs/began"; fi
gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
start=python3
if [ "$gpus" -gt 1 ]; then start="python3 -m torch.distributed.run --nproc-per-node $gpus"; fi
left=$((seconds - $(date +%s) + $(cat "$runs/began")))
if [ ! -e "$runs/done" ] && ! running; then
  echo "starting, $left s left"
  # shellcheck disable=SC2086
  setsid nohup bash -c 'echo $$ >"$1/pid"; shift_dir=$1; shift; "$@" >>"$shift_dir/log.txt" 2>&1 && touch "$shift_dir/done"' \
    run "$runs" $start "$here/train.py" all "$runs" --seconds "$left" ${TRAIN_OPTIONS:-} >/dev/null 2>&1 &
  sleep 2
fi
end=$((SECONDS + wait))
while [ $SECONDS -lt $end ] && [ ! -e "$runs/done" ] && running; do sleep 1; done
[ -e "$runs/done" ] && echo "done" || echo "not done"
tail -n 15 "$runs/log.txt" || true
for name in autoencoder transformer; do
  [ -e "$runs/$name.jsonl" ] || continue
  { grep -v accuracy "$runs/$name.jsonl" || true; } | tail -n 3
  grep accuracy "$runs/$name.jsonl" | tail -n 4 || true
done
if command -v nvidia-smi >/dev/null; then nvidia-smi --query-gpu=utilization.gpu,memory.used --format=csv,noheader; fi
uptime
if [ -n "$copy" ]; then
  tar -C "$runs" -czf "$copy/curves.tgz" $(cd "$runs" && ls -d ./*.jsonl ./*.json 2>/dev/null)
  last=$(ls "$runs"/samples/*.png 2>/dev/null | tail -n 1 || true)
  [ -z "$last" ] || cp "$last" "$copy/samples.png"
  for part in pipeline autoencoder; do
    if [ -d "$runs/$part" ]; then
      tar -C "$runs" -cf - "$part" | split -b 15M - "$copy/part_"
      break
    fi
  done
fi
