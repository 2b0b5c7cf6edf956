#!/usr/bin/env bash
# Draw the same seeds by several samplers with 15 calls of the network each, and compare them with a
# fine solution. Usage: rows.sh OUT MODEL [options of `stiffkit sample`]
set -euo pipefail
out=${1:?a folder for the results} model=${2:?a model}
shift 2
stiffkit=${STIFFKIT:-stiffkit}

row() {
  local name=$1
  shift
  $stiffkit sample "$model" --outdir "$out/$name" "$@"
}

row fine "$@" --sampler heun --steps 128
row heun "$@" --sampler heun --steps 8
row erk "$@" --sampler heun --guide erk --w-stiff 0.5 --w-con 0.1 --steps 8
row fx "$@" --sampler heun --guide fx --steps 8
for name in unipc3 deis4 sk44; do row "$name" "$@" --sampler "$name" --steps 15; done

for name in heun erk fx unipc3 deis4 sk44; do
  $stiffkit evaluate "$out/$name" "$out/fine"
done
