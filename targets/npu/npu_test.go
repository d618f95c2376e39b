package npu_test

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/targets/npu"
)

// raw are the files of the archive of small graphs that compilers were asked about, by name.
func raw(t testing.TB) map[string][]byte {
	t.Helper()
	f, err := os.Open("testdata/graphs.tar.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if out[strings.TrimSuffix(h.Name, ".onnx")], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// graphs reads them one after the other.
func graphs(t testing.TB, each func(name string, g *graph.Graph, err error)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "g.onnx")
	files := raw(t)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := os.WriteFile(path, files[name], 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := formats.Open(context.Background(), path)
		if err != nil {
			each(name, nil, err)
			continue
		}
		each(name, m.Graph, nil)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// verdict of the compilers on one graph.
type verdict struct{ cpu, qnn68, qnn73, openvino string }

func verdicts(t testing.TB) map[string]verdict {
	t.Helper()
	text, err := os.ReadFile("testdata/verdicts.tsv")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]verdict{}
	for line := range strings.Lines(string(text)) {
		c := strings.Split(strings.TrimSpace(line), "\t")
		if len(c) != 5 {
			t.Fatalf("line %q", line)
		}
		if c[0] != "graph" {
			out[c[0]] = verdict{c[1], c[2], c[3], c[4]}
		}
	}
	return out
}

// right reports whether a compiler took a graph and computed what it says: within 3 steps of 8-bit codes,
// half of such a step in codes of 16 bits, and 2 % where the outputs are floats made of 8-bit codes.
func right(name, verdict string) bool {
	d, err := strconv.ParseFloat(verdict, 64)
	_, typ, _ := strings.Cut(name, "/")
	limit := 3.0
	switch {
	case strings.Contains(typ, "16"):
		limit = 128
	case strings.HasPrefix(typ, "f32"), strings.Contains(typ, "nooutput"), strings.HasPrefix(typ, "dynamic"):
		limit = 20
	}
	return err == nil && d <= limit
}

// What is called legal compiles for the Hexagon NPU, runs there, and computes the right numbers; what is
// refused does not: its compiler refuses it too, or takes it and computes something else.
func TestRulesOfQNN(t *testing.T) {
	rules := npu.Lookup("npu-qnn")
	want := verdicts(t)
	legal, refused := 0, 0
	seen := map[string]bool{}
	graphs(t, func(name string, g *graph.Graph, err error) {
		v, ok := want[name]
		if !ok {
			t.Errorf("%s: no verdict recorded", name)
			return
		}
		seen[name] = true
		if err != nil {
			if v.qnn73 != "no" {
				t.Errorf("%s: not read, which the compiler takes: %v", name, err)
			}
			return
		}
		findings := rules.Check(g)
		if ok := right(name, v.qnn73); ok != (len(findings) == 0) {
			t.Errorf("%s: compiler says %s, we say %v", name, v.qnn73, findings)
		}
		if len(findings) == 0 {
			legal++
			return
		}
		refused++
		for _, f := range findings {
			if f.Node == "" || f.Rule == "" || f.Reason == "" {
				t.Errorf("%s: a finding that says nothing: %+v", name, f)
			}
		}
	})
	for name := range want {
		if !seen[name] {
			t.Errorf("%s: a verdict without a graph", name)
		}
	}
	if legal < 300 || refused < 200 {
		t.Errorf("%d graphs legal, %d refused: too few to show anything", legal, refused)
	}
}

// OpenVINO's CPU plugin, which is no proof of its NPU compiler, loads and runs all that is called legal for the
// NPU.
func TestRulesOfIntel(t *testing.T) {
	rules, want, legal := npu.Lookup("npu-intel"), verdicts(t), 0
	graphs(t, func(name string, g *graph.Graph, _ error) {
		if g == nil || len(rules.Check(g)) > 0 {
			return
		}
		legal++
		if v := want[name].openvino; v == "no" {
			t.Errorf("%s: legal, and %s", name, v)
		}
	})
	if legal < 200 {
		t.Errorf("%d graphs are legal: too few to show anything", legal)
	}
}

// AMD's symmetric codes always reach below zero, and a Relu behind a layer is part of it all the same. Elsewhere the
// same graph is refused.
func TestClamps(t *testing.T) {
	seen := 0
	graphs(t, func(name string, g *graph.Graph, err error) {
		if name != "Conv/i8+relu-middle" && name != "Conv/u8+relu-middle" {
			return
		}
		seen++
		relu := func(family string) bool {
			return slices.ContainsFunc(npu.Lookup(family).Check(g), func(f npu.Finding) bool { return f.Rule == npu.RuleRelu })
		}
		if relu("npu-amd") || !relu("npu-qnn") {
			t.Errorf("%s: a Relu is refused by npu-amd: %v, by npu-qnn: %v", name, relu("npu-amd"), relu("npu-qnn"))
		}
	})
	if seen != 2 {
		t.Errorf("%d graphs", seen)
	}
}

// Findings name node and rule, and say what would be legal.
func TestFindings(t *testing.T) {
	want := map[string]npu.Finding{
		"Conv/u8+relu-middle": {"Relu n_Relu11", npu.RuleRelu, "further than it cuts", "zero point of 0"},
		"Relu/u8+dynamic":     {"input x1", npu.RuleShape, "not known", "--shape"},
		"Relu/u8+rank6":       {"Relu n_Relu6", npu.RuleRank, "6 dimensions", "5 are possible"},
		"Conv/u8xi8+wrongaxis": {
			"Conv n_Conv9", npu.RuleGranularity, "axis 1", "axis 0",
		},
		"Conv/u8xi8+channel+asymmetric": {"Conv n_Conv11", npu.RuleSymmetry, "zero points", "symmetric"},
		"Conv/u8xi16+tensor":            {"Conv n_Conv11", npu.RuleWeights, "i16 weights", "i8/channel"},
		"Relu/u8+scale-zero":            {"QuantizeLinear n_QuantizeLinear4", npu.RuleScale, "positive", "calibrate"},
		"MatMulNBits/f32-4-32":          {"MatMulNBits n_MatMulNBits4", npu.RuleOperator, "does not run", "output channel"},
		"If/f32":                        {"If n_If2", npu.RuleOperator, "does not run", "CPU"},
		"SpaceToDepth+rescaled/u8":      {"SpaceToDepth n_SpaceToDepth6", npu.RuleScale, "another scale", "the input"},
	}
	graphs(t, func(name string, g *graph.Graph, _ error) {
		w, ok := want[name]
		if !ok {
			return
		}
		delete(want, name)
		list := npu.Lookup("npu-qnn").Check(g)
		if !slices.ContainsFunc(list, func(f npu.Finding) bool {
			return f.Rule == w.Rule && strings.HasPrefix(f.Node, strings.TrimRight(w.Node, "0123456789")) && strings.Contains(f.Reason, w.Reason) && strings.Contains(f.Nearest, w.Nearest)
		}) {
			t.Errorf("%s: %v\nwant %v", name, list, w)
		}
	})
	for name := range want {
		t.Errorf("no graph %s", name)
	}
}

// The data files are complete, and say what was never run.
func TestFamilies(t *testing.T) {
	var names []string
	for _, r := range npu.All() {
		names = append(names, r.Name)
		if r.Doc == "" || r.Source == "" || r.NotExecuted == "" || r.ISA == "" || len(r.Runtimes) == 0 || r.Rank < 4 || r.Opset[0] < 7 || r.Opset[1] < r.Opset[0] || len(r.Codes) == 0 {
			t.Errorf("%s: incomplete", r.Name)
		}
		for _, f := range r.Forms {
			for _, typ := range slices.Concat(f.Types, f.With, r.Codes) {
				if !known(typ) {
					t.Errorf("%s: %v on %q", r.Name, f.Ops, typ)
				}
			}
			for _, w := range f.Weights {
				typ, per, ok := strings.Cut(w, "/")
				if !known(typ) || ok && per != "channel" {
					t.Errorf("%s: %v with weights %q", r.Name, f.Ops, w)
				}
			}
			if len(f.Rank) != 0 && len(f.Rank) != 2 {
				t.Errorf("%s: %v of rank %v", r.Name, f.Ops, f.Rank)
			}
		}
		if !slices.Contains(r.On("u8"), "Conv") && !slices.Contains(r.On("i8"), "Conv") {
			t.Errorf("%s: no convolutions", r.Name)
		}
	}
	if got := strings.Join(names, " "); got != "npu-amd npu-intel npu-qnn npu-rknn" {
		t.Errorf("families %s", got)
	}
}

func known(typ string) bool {
	for d := graph.Float32; d <= graph.Int2; d++ {
		if d.String() == typ {
			return true
		}
	}
	return false
}

// Any graph that can be read can be checked.
func FuzzCheck(f *testing.F) {
	for _, data := range raw(f) {
		f.Add(data, 17)
	}
	f.Fuzz(func(t *testing.T, data []byte, opset int) {
		path := filepath.Join(t.TempDir(), "g.onnx")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := formats.Open(context.Background(), path)
		if err != nil || m.Graph == nil {
			return
		}
		defer m.Close()
		m.Graph.Opset[""] = opset
		for _, r := range npu.All() {
			r.Check(m.Graph)
		}
	})
}
