package eval

import (
	"archive/zip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"path"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/pare-dev/pare/ir/graph"
)

var only = flag.String("case", "", "run the conformance cases whose name contains this, and show why they fail")

// backendCase is a model with inputs and expected outputs.
type backendCase struct {
	name, kind string
	files      map[string][]byte
}

// backendCases reads the conformance suite of the specification.
func backendCases(t *testing.T) []*backendCase {
	t.Helper()
	z, err := zip.OpenReader("../../testdata/onnx-backend/cases.zip")
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

func (c *backendCase) run() error {
	g, err := readModel(c.files["model.onnx"])
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
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

// leastPassed is how many cases passed when the number was last raised.
const leastPassed = 788

func TestConformance(t *testing.T) {
	passed, total := 0, 0
	var failed []string
	missing := map[string]int{}
	for _, c := range backendCases(t) {
		if !strings.Contains(c.name, *only) {
			continue
		}
		total++
		err := c.run()
		if err == nil {
			passed++
			continue
		}
		if errors.Is(err, ErrOperator) && *only == "" {
			missing[err.Error()]++
			continue
		}
		failed = append(failed, fmt.Sprintf("%s/%s: %v", c.kind, c.name, err))
	}
	for _, f := range failed {
		t.Error(f)
	}
	if *only == "" && passed < leastPassed {
		t.Errorf("%d cases pass, %d did before", passed, leastPassed)
	}
	t.Logf("%d of %d pass, %d fail, missing %v", passed, total, len(failed), missing)
}
