#!/bin/sh
# Compiles the kernels with the pinned clang and writes the Go assembly of every level.
# usage: generate.sh [output folder]     default: the package folder
# needs: clang-19, lld-19, llvm-objdump-19 (Debian: clang-19 lld-19 llvm-19)
set -eu
cd "$(dirname "$0")"
exec go run . "${1:-..}"
