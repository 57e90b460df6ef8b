#!/usr/bin/env bash
# Converts the small trained model and serves it for live streams, at sizes that play on two cores, until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
exec bash examples/serve.sh --num-steps 4 --live-chunk 1 --live-sink 1 --live-ring 3 --live-warm "$@"
