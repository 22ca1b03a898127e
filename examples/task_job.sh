#!/bin/sh
# Makes a job that calls the handler shop.invoice of tasks.py, runs it now, and shows what became of it.
set -eu
jobs=${GNOMON:-http://127.0.0.1:8000}/v1/jobs

gnomon() {
    curl -fsS ${GNOMON_KEY:+-H "Authorization: Bearer $GNOMON_KEY"} "$@"
}

gnomon "$jobs" -H 'Content-Type: application/json' -d '{
  "type": "shop.invoice", "name": "invoice", "schedule": "0 8 * * 1",
  "payload": {"order": 4711, "copies": 2}
}'
gnomon -X POST "$jobs/name:invoice/run"
sleep 3
gnomon "$jobs/name:invoice/executions"
