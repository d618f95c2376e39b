package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pare-dev/pare/targets/report"
)

// A demo that is there is not made again and is no mistake: one line says where to look. One that lacks
// a package is not there. What lies in the folder is made here by hand: packages are told by their
// manifest, and making real ones takes a minute.
func TestDemoAgain(t *testing.T) {
	dir := t.TempDir()
	rep := &report.Report{Schema: report.Schema, Tool: "pare", Verdict: report.Verdict("fail")}
	for i, name := range demoPackages {
		place := filepath.Join(dir, "pare-demo", "dist", name)
		verdict := report.Verdict("pass")
		if i == 1 {
			place, verdict = place+".rejected", report.Verdict("fail")
		}
		if err := os.MkdirAll(place, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(place, "manifest.json"), []byte("{}"), 0o644); err != nil {
			t.Fatal(err)
		}
		rep.Targets = append(rep.Targets, report.Target{Name: name, Package: place, Verdict: verdict})
	}
	dist := filepath.Join(dir, "pare-demo", "dist")
	if err := rep.Write(dist); err != nil {
		t.Fatal(err)
	}
	d := pare(t, dir, "demo")
	if d.code != exitGate || strings.Count(d.err, "\n") != 1 || !strings.Contains(d.err, filepath.Join("pare-demo", "dist", "report.html")) || !strings.Contains(d.err, "--force") {
		t.Errorf("exit code %d, which a failed gate gives; stderr:\n%s", d.code, d.err)
	}
	if _, err := os.Stat(filepath.Join(dir, "pare-demo", "books-llama")); err == nil {
		t.Error("the sample was written")
	}
	var again report.Report
	if err := json.Unmarshal([]byte(pare(t, dir, "demo", "--output", "json").out), &again); err != nil || len(again.Targets) != len(demoPackages) {
		t.Errorf("as JSON: %d targets, %v", len(again.Targets), err)
	}
	if err := os.RemoveAll(rep.Targets[2].Package); err != nil {
		t.Fatal(err)
	}
	if demoReport(dist) != nil {
		t.Error("a demo without one of its packages is taken for whole")
	}
}

// The tour on a graph makes packages, says where its recipe lies, and is not made again. In ONNX Runtime 98.7 % of the
// digits are right (testdata/graphs/README.md).
func TestDemoGraph(t *testing.T) {
	dir := t.TempDir()
	out := ok(t, dir, "demo", "vision", "-o", "tour")
	recipe := filepath.Join("tour", "mnist", "build.toml")
	if !strings.Contains(out, "98.70 % →") || !strings.Contains(out, recipe) {
		t.Errorf("%s", out)
	}
	if _, err := os.Stat(filepath.Join(dir, "tour", "dist", "npu-qnn", "manifest.json")); err != nil {
		t.Error(err)
	}
	if d := pare(t, dir, "demo", "vision", "-o", "tour"); d.code != 0 || strings.Count(d.err, "\n") != 1 || !strings.Contains(d.err, "--force") {
		t.Errorf("again: exit code %d\n%s", d.code, d.err)
	}
	ok(t, dir, "demo", "audio", "--sample-only")
	if _, err := os.Stat(filepath.Join(dir, "pare-demo-audio", "silero", "speech.wav")); err != nil {
		t.Error(err)
	}
	for _, line := range []string{"demo smell", "demo text vision", "demo vision --tokens 5"} {
		if d := pare(t, dir, strings.Fields(line)...); d.code != exitMisuse {
			t.Errorf("%s: exit code %d\n%s", line, d.code, d.err)
		}
	}
}
