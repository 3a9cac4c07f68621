#!/bin/sh
# The whole suite, or what is in these folders: sh tools/test.sh PYTHON [FOLDER ...]. What starts programs and watches
# a clock (marked `realtime`) runs one test at a time; what only computes runs beside it, one process a core, at the
# lowest weight, so that it takes what the other leaves. A process that is killed ends its half at once: another one
# in its place leaves xdist waiting for ever. ALL=1, as CI runs it, adds the tests marked `long`.
set -u
python="$1"
shift
usual="not slow and not gpu and not index"
if [ -z "${ALL:-}" ]; then
    usual="$usual and not long"
    echo "== without the $(wc -l <tests/long_tests.txt) tests that take longest (tests/long_tests.txt): ALL=1 runs them too, as CI does"
fi
lowest="chrt --idle 0 nice -n 19"
$lowest true 2>/dev/null || lowest="nice -n 19"
computed="$(mktemp)"
echo "== tests that compute, $(nproc) at a time, beside the others at the lowest weight: what they say comes after those"
OMP_NUM_THREADS=1 $lowest "$python" -m pytest -n "$(nproc)" --dist loadfile --max-worker-restart 0 --timeout 1800 \
    -m "$usual and not realtime" "$@" >"$computed" 2>&1 &
computing=$!
trap 'kill $computing 2>/dev/null; rm -f "$computed"' EXIT
trap 'cat "$computed"; exit 130' INT TERM HUP
failed=0
echo "== tests that watch a clock, one at a time"
"$python" -m pytest -m "$usual and realtime" "$@" || failed=1
echo "== tests that compute"
wait $computing || failed=1
cat "$computed"
exit $failed
