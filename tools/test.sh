#!/bin/sh
# The whole suite, or what is in these folders: sh tools/test.sh PYTHON [FOLDER ...]. What only computes runs in
# one process a core; what starts programs and watches a clock (marked `realtime`) runs alone afterwards, one test
# at a time. What computes may take its time on a machine that others use too. A process that is killed ends its
# half at once: another one in its place leaves xdist waiting for ever.
set -u
python="$1"
shift
usual="not slow and not gpu and not index"
failed=0
echo "== tests that compute, $(nproc) at a time"
OMP_NUM_THREADS=1 "$python" -m pytest -n "$(nproc)" --dist loadfile --max-worker-restart 0 --timeout 900 \
    -m "$usual and not realtime" "$@" || failed=1
echo "== tests that watch a clock, one at a time"
"$python" -m pytest -m "$usual and realtime" "$@" || failed=1
exit $failed
