package eval

import (
	"archive/zip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/ir/graph"
)

var (
	only   = flag.String("case", "", "run the conformance cases whose name contains this, and show why they fail")
	update = flag.Bool("update", false, "write docs/operators.md anew")
)

// backendCase is a model with inputs and expected outputs.
type backendCase struct {
	name, kind string
	files      map[string][]byte
}

// backendCases reads the conformance suite of the specification.
func backendCases(t *testing.T) []*backendCase {
	return casesOf(t, "../../testdata/onnx-backend/cases.zip")
}

// casesOf reads an archive of cases.
func casesOf(t *testing.T, archive string) []*backendCase {
	t.Helper()
	z, err := zip.OpenReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	byName := map[string]*backendCase{}
	for _, f := range z.File {
		kind, rest, _ := strings.Cut(f.Name, "/")
		name, file, nested := strings.Cut(rest, "/")
		if kind == "light" {
			name = strings.TrimSuffix(strings.TrimSuffix(rest, ".onnx"), "_output_0.pb")
			file = "model.onnx"
			if strings.HasSuffix(rest, ".pb") {
				file = "test_data_set_0/output_0.pb"
			}
		} else if !nested {
			continue
		}
		c := byName[kind+"/"+name]
		if c == nil {
			c = &backendCase{name: name, kind: kind, files: map[string][]byte{}}
			byName[kind+"/"+name] = c
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if c.files[file], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
		r.Close()
	}
	var list []*backendCase
	for _, c := range byName {
		if c.files["model.onnx"] != nil {
			list = append(list, c)
		}
	}
	sort.Slice(list, func(i, j int) bool { return list[i].kind+list[i].name < list[j].kind+list[j].name })
	return list
}

func (c *backendCase) sets() []string {
	var sets []string
	for f := range c.files {
		if d := path.Dir(f); strings.HasPrefix(d, "test_data_set") && !slices.Contains(sets, d) {
			sets = append(sets, d)
		}
	}
	sort.Strings(sets)
	return sets
}

// run runs the case; dir is where its model may lie.
func (c *backendCase) run(dir string, o *outcome) error {
	name := filepath.Join(dir, "model.onnx")
	if err := os.WriteFile(name, c.files["model.onnx"], 0o600); err != nil {
		return err
	}
	m, err := formats.Open(context.Background(), name)
	if err != nil {
		return err
	}
	defer m.Close()
	g := m.Graph
	o.ops = operatorsOf(g)
	p, err := Compile(g, Options{Threads: 2})
	if err != nil {
		return err
	}
	for _, set := range c.sets() {
		var in []Value
		inputs := p.Inputs()
		if c.kind == "light" {
			in = append(in, Of(ramp(inputs[0])))
		}
		for i := range inputs {
			b, ok := c.files[fmt.Sprintf("%s/input_%d.pb", set, i)]
			if !ok {
				break
			}
			v, err := readValue(b, inputs[i].Kind)
			if err != nil {
				return err
			}
			in = append(in, v)
		}
		out, err := p.Run(context.Background(), in...)
		if err != nil {
			return err
		}
		for i, o := range g.Outputs {
			b, ok := c.files[fmt.Sprintf("%s/output_%d.pb", set, i)]
			if !ok {
				break
			}
			want, err := readValue(b, o.Kind)
			if err != nil {
				return err
			}
			if err := sameValue(out[i], want, c.tolerance()); err != nil {
				return fmt.Errorf("%s, output %d: %w", set, i, err)
			}
		}
	}
	return nil
}

// readValue reads a tensor, sequence or optional, as a graph declares it.
func readValue(b []byte, kind graph.Kind) (Value, error) {
	list, some, err := formats.ONNXValue(b, kind)
	if err != nil {
		return Value{}, err
	}
	switch kind {
	case graph.KindTensor:
		return Of(list[0]), nil
	case graph.KindSequence:
		return SequenceOf(list...), nil
	case graph.KindOptional:
		if some {
			return Value{Kind: kind, Tensor: list[0]}, nil
		}
		return Value{Kind: kind}, nil
	}
	return Value{Kind: kind, Seq: list, Some: some}, nil
}

// ramp is what the suite feeds to its large networks: i/n at index i.
func ramp(v *graph.Value) *graph.Tensor {
	var shape []int
	for _, d := range *v.Shape {
		shape = append(shape, max(1, d.Size))
	}
	t := graph.New(graph.Float32, shape...)
	x := graph.Of[float32](t)
	for i := range x {
		x[i] = float32(float64(i) / float64(len(x)))
	}
	return t
}

// tolerance is relative; the suite names what is not 1e-3.
func (c *backendCase) tolerance() float64 { return 1e-3 }

var errDiffers = errors.New("differs")

func sameValue(got, want Value, rtol float64) error {
	if want.Kind == graph.KindTensor || want.Kind == graph.KindOptional {
		if (got.Tensor == nil) != (want.Tensor == nil) {
			return fmt.Errorf("%w: there is one: %v, want %v", errDiffers, got.Tensor != nil, want.Tensor != nil)
		}
		if want.Tensor == nil {
			return nil
		}
		return sameTensor(got.Tensor, want.Tensor, rtol)
	}
	if len(got.Seq) != len(want.Seq) {
		return fmt.Errorf("%w: %d elements of a sequence, want %d", errDiffers, len(got.Seq), len(want.Seq))
	}
	for i := range want.Seq {
		if err := sameTensor(got.Seq[i], want.Seq[i], rtol); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
	return nil
}

func sameTensor(got, want *graph.Tensor, rtol float64) error {
	if got.Type != want.Type || !slices.Equal(got.Shape, want.Shape) {
		return fmt.Errorf("%w: %s %v, want %s %v", errDiffers, got.Type, got.Shape, want.Type, want.Shape)
	}
	if want.Type == graph.String {
		if !slices.Equal(got.Strings, want.Strings) {
			return fmt.Errorf("%w: %q, want %q", errDiffers, got.Strings, want.Strings)
		}
		return nil
	}
	a, b := toFloat64(got), toFloat64(want)
	for i := range b {
		x, y := a[i], b[i]
		if x == y || math.IsNaN(x) && math.IsNaN(y) {
			continue
		}
		if d := math.Abs(x - y); !(d <= 1e-7+rtol*math.Abs(y)) {
			return fmt.Errorf("%w: %v at %d of %v, want %v", errDiffers, x, i, want.Shape, y)
		}
	}
	return nil
}

func toFloat64(t *graph.Tensor) []float64 {
	if t.Type == graph.Complex64 || t.Type == graph.Complex128 {
		return graph.Of[float64](t)
	}
	d := graph.New(graph.Float64, t.Elems())
	recode(d, t)
	return graph.Of[float64](d)
}

// refused are the cases that do not pass, each with its reason: by the name of the case, or by an operator that
// pare does not run.
var refused = map[string]string{
	"node/test_training_dropout":              randomReason,
	"node/test_training_dropout_default_mask": randomReason,
	"node/test_bernoulli":                     randomReason,
	"node/test_bernoulli_expanded":            randomReason,
	"node/test_bernoulli_seed":                randomReason,
	"node/test_bernoulli_seed_expanded":       randomReason,
	"node/test_dft_inverse_opset19":           "the expected output has the rounding errors of one library where it is 0",
	"ai.onnx.ml.TreeEnsemble":                 "trees are no network",
	"ImageDecoder":                            "decoding of image files is not part of a network here; give the pixels",
	"ai.onnx.preview.training.Adagrad":        trainingReason,
	"ai.onnx.preview.training.Adam":           trainingReason,
	"ai.onnx.preview.training.Momentum":       trainingReason,
	"ai.onnx.preview.training.Gradient":       trainingReason,
}

const (
	randomReason   = "the expected output has the random numbers of one implementation"
	trainingReason = "training is not inference"
)

// outcome is how a case went.
type outcome struct {
	*backendCase
	err    error
	reason string
	ops    []string // "Conv", "com.microsoft.Gelu"
}

// reasonOf finds the reason of a case that does not pass.
func (o *outcome) reasonOf() string {
	if r := refused[o.kind+"/"+o.name]; r != "" {
		return r
	}
	if !errors.Is(o.err, ErrOperator) {
		return ""
	}
	var names []string
	for _, op := range o.ops {
		if r := refused[op]; r != "" {
			return r
		}
		dom, name, _ := cutLast(op)
		if ops[opKey{dom, name}] == nil && !slices.Contains(names, op) {
			names = append(names, op)
		}
	}
	return "not supported: " + strings.Join(names, ", ")
}

// cutLast splits "com.microsoft.Gelu" at its last dot.
func cutLast(op string) (dom, name string, ok bool) {
	i := strings.LastIndex(op, ".")
	if i < 0 {
		return "", op, false
	}
	return op[:i], op[i+1:], true
}

// operatorsOf lists the operators of a graph and its subgraphs.
func operatorsOf(g *graph.Graph) []string {
	var list []string
	for _, n := range g.Nodes {
		name := n.Op
		if domain(n.Domain) != "" {
			name = n.Domain + "." + name
		}
		list = append(list, name)
		for _, sub := range n.Graphs() {
			list = append(list, operatorsOf(sub)...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// The suite of the specification passes, but for the cases that docs/operators.md lists with a reason.
func TestConformance(t *testing.T) {
	var all []*outcome
	passed, dir := 0, t.TempDir()
	for _, c := range backendCases(t) {
		if !strings.Contains(c.name, *only) {
			continue
		}
		o := &outcome{backendCase: c}
		o.err = c.run(dir, o)
		all = append(all, o)
		if o.err == nil {
			passed++
			if r := refused[c.kind+"/"+c.name]; r != "" {
				t.Errorf("%s/%s passes; it is listed as: %s", c.kind, c.name, r)
			}
			continue
		}
		if o.reason = o.reasonOf(); o.reason == "" || *only != "" {
			t.Errorf("%s/%s: %v", c.kind, c.name, o.err)
		}
	}
	t.Logf("%d of %d cases pass", passed, len(all))
	if *only != "" {
		return
	}
	doc := operatorsDoc(all, passed, runContrib(t))
	if *update {
		if err := os.WriteFile(operatorsFile, doc, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	old, err := os.ReadFile(operatorsFile)
	if err != nil {
		t.Fatal(err)
	}
	if string(old) != string(doc) {
		t.Error("docs/operators.md is not current: go test ./runner/eval -run Conformance -update")
	}
}

const operatorsFile = "../../docs/operators.md"

// operatorsDoc is the page about operators.
func operatorsDoc(all []*outcome, passed int, contrib []*outcome) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, `# Operators

This page is written by `+"`go test ./runner/eval -run Conformance -update`"+`.

pare runs graphs of these operators itself, in %s. A version says since which operator set an
operator, or a form of it, is taken; all earlier forms are where it says so. The last column counts the cases of
ONNX's conformance suite with the operator that pass (%s),
and behind a + those whose outputs are recorded from ONNX Runtime (%s), all of which pass.

| domain | operator | versions | cases |
|---|---|---|---|
`, "`runner/eval`", "[testdata/onnx-backend](../testdata/onnx-backend/README.md)",
		"[testdata/onnx-contrib](../testdata/onnx-contrib/README.md)")
	for _, o := range Operators() {
		key, dom := o.Name, "ai.onnx"
		if o.Domain != "" {
			key, dom = o.Domain+"."+o.Name, o.Domain
		}
		var since []string
		for _, v := range o.Since {
			if v == 0 {
				since = append(since, "all")
			} else {
				since = append(since, fmt.Sprintf("since %d", v))
			}
		}
		cases := fmt.Sprint(passing(all, key))
		if n := passing(contrib, key); n > 0 {
			cases += fmt.Sprintf(" + %d", n)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", dom, o.Name, strings.Join(since, ", "), cases)
	}
	fmt.Fprintf(&b, `
## Conformance

%d of %d cases pass (%.1f %%), with the tolerances of the suite's own runner. These do not:

| case | reason |
|---|---|
`, passed, len(all), 100*float64(passed)/float64(len(all)))
	for _, o := range all {
		if o.err != nil {
			fmt.Fprintf(&b, "| %s/%s | %s |\n", o.kind, o.name, o.reason)
		}
	}
	return []byte(b.String())
}

// passing counts the cases with an operator that pass.
func passing(all []*outcome, op string) int {
	n := 0
	for _, c := range all {
		if c.err == nil && slices.Contains(c.ops, op) {
			n++
		}
	}
	return n
}
