#!/bin/sh
# Makes a job that calls the handler shop.invoice of tasks.py, runs it now, and shows what became of it.
set -eu
jobs=${GNOMON:-http://127.0.0.1:8000}/v1/jobs

curl -fsS "$jobs" -H 'Content-Type: application/json' -d '{
  "type": "shop.invoice", "name": "invoice", "schedule": "0 8 * * 1",
  "payload": {"order": 4711, "copies": 2}
}'
curl -fsS -X POST "$jobs/name:invoice/run"
sleep 3
curl -fsS "$jobs/name:invoice/executions"
