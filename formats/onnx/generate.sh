#!/bin/sh
# Generates *.pb.go from the .proto files, which are those of onnx/onnx v1.22.0 as they are.
# Needs protoc (35.1 made the committed files) and protoc-gen-go v1.36.12 in PATH:
#   go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
mkdir "$tmp/onnx" # the path that onnx-data.proto imports
cp ./*.proto "$tmp/onnx"
package=github.com/pare-dev/pare/formats/onnx
${PROTOC:-protoc} -I "$tmp" --go_out="$tmp" --go_opt=paths=source_relative \
	--go_opt="Monnx/onnx-ml.proto=$package" --go_opt="Monnx/onnx-data.proto=$package" \
	onnx/onnx-ml.proto onnx/onnx-data.proto
cp "$tmp"/onnx/*.pb.go .
