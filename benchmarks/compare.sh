#!/usr/bin/env bash
# Compares models on a real data set with its own split: equal search budget, three seeds, table and pictures.
#
#   benchmarks/compare.sh lfm2k                      BPR, LightGCN and every general model of this package
#   benchmarks/compare.sh ml-latest-small-mm         BPR, LightGCN and the attention, pre-training and clustering models
#   benchmarks/compare.sh lfm2k-cold-items           every general model on items that training has not seen
#   TRIALS=0 SEEDS=1 MODELS=BPR,MMGCN benchmarks/compare.sh lfm2k --ablate
#
# With RESULTS=NAME the table is kept in benchmarks/results/NAME.csv, which tools/result_tables.py puts into the documents.
# Started again, it goes on where it was stopped. The data are read from $RECBOLE_MM_DATA, or ../shared/data beside the
# checkout. Further arguments go to run_recbole_mm.py.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
DATA=${RECBOLE_MM_DATA:-$ROOT/../shared/data}
TASK=${1:?expected lfm2k, ml-latest-small-mm or lfm2k-cold-items}
shift
LFM2K=(--feature text=all-MiniLM-L6-v2.npy --feature audio=vggish.npy)
EXTRA=()
case $TASK in
lfm2k)
    NAME=lfm2k FEATURES=("${LFM2K[@]}")
    DEFAULTS=(4 80 BPR,LightGCN,DualGNN,GRCN,MMGCN,MMGCL,MGAT,HCGCN,UVCAN,MCPTR,CMBF)
    ;;
ml-latest-small-mm)
    NAME=$TASK FEATURES=(--feature image=image_feat.npy --feature text=text_feat.npy)
    DEFAULTS=(3 40 BPR,LightGCN,HCGCN,UVCAN,MCPTR,CMBF)
    ;;
lfm2k-cold-items)
    NAME=lfm2k FEATURES=("${LFM2K[@]}")
    DEFAULTS=(0 30 BPR,LightGCN,DualGNN,GRCN,MMGCN,MMGCL,MGAT,HCGCN,UVCAN,MCPTR,CMBF)
    EXTRA=("--cold_start={'entity': 'item', 'ratio': 0.2, 'candidates': 'cold', 'seed': 2020}" "--slices=['cold_items']")
    ;;
*)
    echo "$TASK: expected lfm2k, ml-latest-small-mm or lfm2k-cold-items" >&2
    exit 2
    ;;
esac
OUTPUT=$(mkdir -p "${OUTPUT:-comparison/$TASK}" && cd "${OUTPUT:-comparison/$TASK}" && pwd)
PYTHON=${PYTHON:-python}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # as many processes as cores (JOBS), one thread each
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}

if [ ! -f "$OUTPUT/data/$NAME/$NAME.yaml" ]; then
    "$PYTHON" -m recbole_mm.data.convert mmrec "$DATA/$NAME" "$OUTPUT/data" --name "$NAME" "${FEATURES[@]}"
fi
TRIALS=${TRIALS:-${DEFAULTS[0]}}
[ "$TRIALS" = 0 ] || EXTRA+=("--trials=$TRIALS") # without a search the option is left out
"$PYTHON" "$ROOT/run_recbole_mm.py" \
    --models="${MODELS:-${DEFAULTS[2]}}" --epochs="${EPOCHS:-${DEFAULTS[1]}}" \
    --baseline="${BASELINE:-LightGCN}" --seeds="${SEEDS:-3}" --jobs="${JOBS:-2}" \
    --dataset="$NAME" --data_path="$OUTPUT/data" --config_files="$OUTPUT/data/$NAME/$NAME.yaml" --output="$OUTPUT" \
    --eval_step=5 --stopping_step=3 --metrics="['Recall', 'NDCG']" --topk='[10, 20]' --valid_metric=Recall@20 \
    "${EXTRA[@]}" "$@"
if [ -n "${RESULTS:-}" ]; then "$PYTHON" "$ROOT/tools/result_tables.py" add "$RESULTS" "$OUTPUT"; fi
