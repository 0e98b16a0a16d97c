#!/usr/bin/env bash
# compare_serve.sh MODEL PEER [ARGUMENTS OF THE PEER...]: kvrt serve beside another server, see compare_serve.py.
exec python3 "$(dirname "$0")/compare_serve.py" "$@"
