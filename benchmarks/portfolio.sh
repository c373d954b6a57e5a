#!/usr/bin/env bash
# Every general model with its defaults on every data set of the portfolio, beside Pop, BPR, LightGCN and a content kNN.
#
#   benchmarks/portfolio.sh                                       all sets, all models, three seeds
#   benchmarks/portfolio.sh planted-content lfm2k-sparse          these sets
#   SEEDS=1 MODELS=BPR,GRCN,LightGCN benchmarks/portfolio.sh lfm2k --reg_weight=1e-3
#   benchmarks/portfolio.sh video-heavy mlls-sparse mmgcl-sample-movielens    sets that no default was chosen on
#
# On small data RecBole's models take smaller batches, as ours do (shrink_batches), so that all have as many steps.
# Started again, it goes on where it was stopped; further arguments that start with -- go to the comparisons. The sets are
# those of portfolio_data.py, made in $OUTPUT/data from $RECBOLE_MM_DATA, or ../shared/data beside the checkout.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
OUTPUT=$(mkdir -p "${OUTPUT:-comparison/portfolio}" && cd "${OUTPUT:-comparison/portfolio}" && pwd)
PYTHON=${PYTHON:-python}
BASELINES=Pop,ItemKNNCBF,BPR
MODELS=${MODELS:-$BASELINES,VBPR,FREEDOM,BM3,SLMRec,MGCN,LATTICE,LGMRec,DRAGON,SMORE,MMGCN,GRCN,DualGNN,MMGCL,MGAT,HCGCN,UVCAN,MCPTR,CMBF,LightGCN}
SETS=() OPTIONS=()
for argument in "$@"; do
    case $argument in --*) OPTIONS+=("$argument") ;; *) SETS+=("$argument") ;; esac
done
[ ${#SETS[@]} -gt 0 ] || SETS=(mmgcl-sample-tiktok planted-content planted-noise lfm2k-sparse microlens-sample ml-latest-small-mm lfm2k)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # as many processes as cores (JOBS), one thread each
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
export PYTHONWARNINGS=${PYTHONWARNINGS:-ignore}

"$PYTHON" "$ROOT/benchmarks/portfolio_data.py" "$OUTPUT/data" "${SETS[@]}" > /dev/null
for name in "${SETS[@]}"; do
    "$PYTHON" -m recbole_mm compare --models="$MODELS" --seeds="${SEEDS:-3}" --jobs="${JOBS:-2}" --baseline=LightGCN \
        --dataset="$name" --data_path="$OUTPUT/data" --output="$OUTPUT/$name" --epochs="${EPOCHS:-100}" --eval_step=2 \
        --stopping_step=8 --shrink_batches=True --metrics="['Recall', 'NDCG']" --topk='[10, 20]' --valid_metric=Recall@20 "${OPTIONS[@]}"
done
