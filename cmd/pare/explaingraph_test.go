package main

import (
	"math"
	"strings"
	"testing"
)

// With its only layer on codes put back, a network gives what the original gives. Of several the one that brings most
// stands first, and leaving it in float brings what was foretold.
func TestExplainGraph(t *testing.T) {
	dir := graphs(t)
	explain := func(words string) map[string]any {
		t.Helper()
		return valid(t, "explain-graph", ok(t, dir, append(strings.Fields("explain "+words), "--output", "json")...))
	}
	ok(t, dir, strings.Fields("quantize dtln/model_1.onnx --type dynamic-int8 -o dtln.onnx")...)
	got := explain("dtln/model_1.onnx dtln.onnx --samples input_2=dtln/magnitudes.npy --samples input_3=zeros")
	losses := got["losses"].([]any)
	only := losses[0].(map[string]any)
	if len(losses) != 1 || realOf(t, only["with_db"]) < 199 || realOf(t, got["sqnr_db"]) > 80 || realOf(t, only["price_bytes"]) < 3*128*257-4*257-8 { // codes, a scale for each output, zero points
		t.Errorf("%v", got)
	}
	quantize := "quantize mnist/mnist-8.onnx --type uint8 --calibration mnist/images-idx3-ubyte.gz --force -o digits.onnx"
	ok(t, dir, strings.Fields(quantize)...)
	digits := "mnist/mnist-8.onnx digits.onnx --samples mnist/images-idx3-ubyte.gz"
	got = explain(digits)
	first := got["losses"].([]any)[0].(map[string]any)
	keep := first["keep"].([]any)
	if len(keep) != 1 || keep[0] != "Times212" || realOf(t, first["gain_db"]) < 1 {
		t.Fatalf("%v", got)
	}
	ok(t, dir, append(strings.Fields(quantize), "--keep", "Times212")...)
	if again := explain(digits); math.Abs(realOf(t, again["sqnr_db"])-realOf(t, first["with_db"])) > 1 {
		t.Errorf("%v dB with %v in float, %v dB were foretold", again["sqnr_db"], keep, first["with_db"])
	}
	for _, args := range []string{
		"explain mnist/mnist-8.onnx digits.onnx",
		"explain mnist/mnist-8.onnx mnist/mnist-8.onnx --samples mnist/images-idx3-ubyte.gz",
		"explain mnist/mnist-8.onnx digits.onnx --samples missing.npy",
	} {
		if d := pare(t, dir, strings.Fields(args)...); d.code != exitMisuse {
			t.Errorf("%s: exit code %d\n%s", args, d.code, d.err)
		}
	}
}
