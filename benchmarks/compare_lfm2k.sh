#!/usr/bin/env bash
# Compares BPR, LightGCN and the multimodal models on lfm2k: equal search budget, three seeds, table and pictures.
#
#   benchmarks/compare_lfm2k.sh                     everything; about an hour on two cores
#   TRIALS=0 SEEDS=1 MODELS=BPR,MMGCN benchmarks/compare_lfm2k.sh
#
# Started again, it goes on where it was stopped. The data are read from $RECBOLE_MM_DATA, or ../shared/data beside the
# checkout.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
DATA=${RECBOLE_MM_DATA:-$ROOT/../shared/data}
OUTPUT=$(mkdir -p "${OUTPUT:-comparison/lfm2k}" && cd "${OUTPUT:-comparison/lfm2k}" && pwd)
PYTHON=${PYTHON:-python}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # as many processes as cores (JOBS), one thread each
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}

if [ ! -f "$OUTPUT/data/lfm2k/lfm2k.yaml" ]; then
    "$PYTHON" -m recbole_mm.data.convert mmrec "$DATA/lfm2k" "$OUTPUT/data" --name lfm2k \
        --feature text=all-MiniLM-L6-v2.npy --feature audio=vggish.npy
fi
exec "$PYTHON" "$ROOT/run_recbole_mm.py" \
    --models="${MODELS:-BPR,LightGCN,MMGCN,GRCN,DualGNN,MMGCL,MGAT,HCGCN,UVCAN,CMBF,MCPTR}" \
    --baseline="${BASELINE:-LightGCN}" --seeds="${SEEDS:-3}" --trials="${TRIALS:-4}" --jobs="${JOBS:-2}" \
    --dataset=lfm2k --data_path="$OUTPUT/data" --config_files="$OUTPUT/data/lfm2k/lfm2k.yaml" --output="$OUTPUT" \
    --epochs="${EPOCHS:-80}" --eval_step=5 --stopping_step=3 \
    --metrics="['Recall', 'NDCG']" --topk='[10, 20]' --valid_metric=Recall@20 "$@"
