#!/bin/sh
# Has Gnomon call examples/http_receiver.py every five seconds, and once at once.
#
#     sh examples/http_job.sh
#
# GNOMON is where the API is, and GNOMON_KEY a key for it if it wants one; RECEIVER is where the receiver listens.
set -eu
GNOMON=${GNOMON:-http://127.0.0.1:8000}
RECEIVER=${RECEIVER:-http://127.0.0.1:9000}

gnomon() {
    curl --silent --show-error --fail-with-body ${GNOMON_KEY:+-H "Authorization: Bearer $GNOMON_KEY"} "$@"
}

echo "the job:"
gnomon "$GNOMON/v1/jobs" -H 'Content-Type: application/json' -d @- <<JSON
{
  "type": "HTTP",
  "name": "report",
  "interval_seconds": 5,
  "http_job": {
    "url": "$RECEIVER/reports",
    "method": "POST",
    "headers": {"Content-Type": "application/json"},
    "body": "{\"report\": \"daily\"}"
  },
  "timeout_seconds": 10,
  "retry": {"max_attempts": 5, "initial_seconds": 1}
}
JSON
echo

echo "an execution, now:"
gnomon -X POST "$GNOMON/v1/jobs/name:report/run"
echo

echo "what it has done so far:"
sleep 6
gnomon "$GNOMON/v1/jobs/name:report/executions"
echo
