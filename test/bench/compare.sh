#!/bin/sh
# Speed beside the peers, on the same GGUF files, in alternating rounds:
#   test/bench/compare.sh --peer llama.cpp=PATH/llama-bench --peer ik_llama.cpp=PATH/llama-bench FILE.gguf... [--threads 2] [--rounds 5]
# The peers are built elsewhere, with the best flags of the machine. Files in the shapes of well-known models: make_shape_gguf.py.
exec python3 "$(dirname "$0")/compare.py" "$@"
