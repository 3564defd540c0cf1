#!/usr/bin/env bash
# One full job over HTTP on a GPU machine: server, GPU worker, curl. `tests/gpu/full_job.sh [FOLDER]` from the repository root.
# LEVEL is the builder's optimization level, 1 by default; METHODS are calibrated. Digits CNN: TensorRT's own entropy calibrator and ours, implicit and explicit engines, the accuracy of each.
set -euo pipefail
folder=${1:-$(mktemp -d)}
mkdir -p "$folder"
digits=app/client/digits
python3 -m app serve --data "$folder/data" --port 8077 2>"$folder/server.log" &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null || true' EXIT
url=http://127.0.0.1:8077
curl -s --retry 60 --retry-delay 1 --retry-all-errors -o /dev/null "$url/readyz" -f

read_json() { python3 -c "import json, sys; v = json.load(sys.stdin); print($1)"; }

curl -sf "$url/v1/workers" | read_json "[(w['capabilities'], w['backends'].get('tensorrt')) for w in v['items']]"
curl -sf -T $digits/mnist-cnn.onnx "$url/v1/models/digits" >/dev/null
curl -sf -T $digits/mnist-calibration-500.zip "$url/v1/datasets/digits-train" >/dev/null
curl -sf -T $digits/mnist-test-1500.zip "$url/v1/datasets/digits-test" >/dev/null

engine_of() { # METHOD QUANTIZATION: build, wait, print the accuracy of each precision
    local spec job id
    spec=$(printf '{"model": "digits", "dataset": "digits-train", "calibration": {"method": "%s", "grid": "tensorrt", "batch_size": 50},
        "engine": {"backend": "tensorrt", "quantization": "%s", "optimization_level": %s},
        "judge": {"dataset": "digits-test", "images": 1500, "latency": true}}' "$1" "$2" "${LEVEL:-1}")
    job=$(curl -s -H 'Content-Type: application/json' -d "$spec" "$url/v1/jobs?wait=60")
    id=$(read_json "v['id']" <<<"$job")
    for _ in 1 2 3 4; do
        job=$(curl -s "$url/v1/jobs/$id?wait=60")
        [ "$(read_json "v['state'] in ('succeeded', 'failed', 'cancelled')" <<<"$job")" = True ] && break
    done
    if [ "$(read_json "v['state']" <<<"$job")" != succeeded ]; then
        read_json "v['state'], v['error']" <<<"$job"
        return 1
    fi
    printf '%-16s %-9s ' "$1" "$2"
    curl -sf "$url/v1/jobs/$id/report" | read_json "'fp32 %.4f  fp16 %.4f  int8 %.4f  by %s on %s  ' % (v['accuracy_fp32'], v['accuracy_fp16'], v['accuracy_int8'], v['judged_by'], v['gpu']) + str({n: p['median_ms'] for n, p in v['latency']['precisions'].items()}) + ' ' + str(v['warnings'])"
    table=$(read_json "v['table_id']" <<<"$job") engine=$(read_json "v['engine_id']" <<<"$job")
}

failed=0
for method in ${METHODS:-native-entropy entropy}; do
    for quantization in implicit explicit; do
        engine_of "$method" $quantization || failed=1
    done
    curl -sf "$url/v1/tables/$table/export?format=trt" >"$folder/$method.cache" || failed=1
done
echo "native tables against caches that TensorRT 10.6 wrote before (no line: equal byte for byte):"
for pair in native-entropy:entropy2 native-minmax:minmax; do
    [ ! -e "$folder/${pair%:*}.cache" ] || diff "$folder/${pair%:*}.cache" "tests/oracle/mnist-${pair#*:}.cache" || true
done
curl -sf "$url/v1/engines/$engine" | read_json "{n: v[n] for n in ('backend', 'version', 'gpu', 'compute_capability', 'driver_floor', 'layers', 'bytes')}"
curl -s -w '\n%{http_code}\n' "$url/v1/engines/$engine/plan?compute_capability=7.5"
exit $failed
