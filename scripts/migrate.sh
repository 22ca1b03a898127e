#!/bin/sh
# scripts/migrate.sh: bring the database's schema up to date; settings as for `gnomon migrate`.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
"$root/scripts/install" embedded
exec "$root/.venv/bin/gnomon" migrate "$@"
