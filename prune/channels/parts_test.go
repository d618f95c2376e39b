package channels

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
)

// What is split off, sliced or picked keeps a channel, though all of its are worth nothing: a convolution that reads
// none is no network.
func TestNoPartIsEmptied(t *testing.T) {
	for name, parts := range map[string]func(b *builder, y *graph.Value) (first, second *graph.Value){
		"split": func(b *builder, y *graph.Value) (first, second *graph.Value) {
			p := b.nodes("Split", 2, map[string]graph.Attr{"axis": number(1)}, y, b.ints(5, 3))
			return p[0], p[1]
		},
		"slice": func(b *builder, y *graph.Value) (first, second *graph.Value) {
			return y, b.node("Slice", nil, y, b.ints(5), b.ints(8), b.ints(1))
		},
		"gather": func(b *builder, y *graph.Value) (first, second *graph.Value) {
			return y, b.node("Gather", map[string]graph.Attr{"axis": number(1)}, y, b.ints(7, 5, 6))
		},
	} {
		b := newBuilder(17)
		x := b.input(1, 3, 6, 6)
		first, second := parts(b, b.relu(b.conv(x, 3, 8, 1, 1, 5, 6, 7)))
		wide := map[bool]int{true: 5, false: 8}[name == "split"]
		b.out(b.conv(first, wide, 2, 1), b.conv(second, 3, 2, 1))
		g, rep, err := Prune(t.Context(), &b.g, &b.net, nil, Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, n := range g.Nodes {
			for _, v := range n.In {
				if v != nil && v.Const != nil && slices.Contains(v.Const.Shape, 0) {
					t.Errorf("%s: %s reads constants of %v", name, n.Name, v.Const.Shape)
				}
			}
		}
		if rep.Groups[0].Kept != 4 {
			t.Errorf("%s: %d channels stay of 8", name, rep.Groups[0].Kept)
		}
		run(t, g, b.samples(1)[0])
	}
}

// A depthwise layer goes with the one that is named: it makes no channels of its own.
func TestOnlyReachesThroughDepthwise(t *testing.T) {
	b := newBuilder(17)
	kinds["depthwise"](b, b.input(1, 3, 6, 6))
	cfg := Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1, Only: []string{"conv0"}}
	if _, rep, err := Prune(t.Context(), &b.g, &b.net, nil, cfg); err != nil || rep.Groups[0].Kept != 4 {
		t.Errorf("%+v, %v", rep, err)
	}
	cfg.Only, cfg.Skip = nil, []string{"conv2"} // the depthwise one
	if _, _, err := Prune(t.Context(), &b.g, &b.net, nil, cfg); err == nil || !strings.Contains(err.Error(), "left alone as asked") {
		t.Errorf("a depthwise layer that was to be left alone: %v", err)
	}
}

// Patterns cross slashes, as exporters of PyTorch write them, and those that select nothing are mistakes.
func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		skip []string
		want string
	}{
		{[]string{"*body*"}, "left alone as asked"},
		{[]string{"/model/*"}, "left alone as asked"},
		{[]string{"/model/body/con0"}, "did you mean"},
		{[]string{"Relu"}, "no layer"},
		{[]string{"["}, "syntax error"},
	} {
		b := newBuilder(17)
		b.out(b.conv(b.relu(b.conv(b.input(1, 3, 6, 6), 3, 8, 1)), 8, 2, 1))
		b.g.Nodes[0].Name = "/model/body/conv0"
		_, _, err := Prune(t.Context(), &b.g, &b.net, nil, Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1, Skip: c.skip})
		if !errors.Is(err, fault.ErrMisuse) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v", c.skip, err)
		}
	}
}

// As many samples are held as the memory allows, where the graph leaves the batch open, too.
func TestSamplesOfOpenShapes(t *testing.T) {
	b := newBuilder(17)
	x := b.input(1, 3, 6, 6)
	b.out(b.conv(b.relu(b.conv(x, 3, 8, 1)), 8, 2, 1))
	list := b.samples(100)
	(*x.Shape)[0] = graph.Dim{Size: -1, Name: "batch"}
	const widest = 4 * 8 * 36
	_, rep, err := Plan(t.Context(), &b.g, &b.net, list, Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1, Memory: 8 * widest * 10})
	if err != nil || rep.Samples != 10 {
		t.Errorf("%+v, %v", rep, err)
	}
}

func TestSamplesThatAreNotFinite(t *testing.T) {
	b := newBuilder(17)
	kinds["chain"](b, b.input(1, 3, 6, 6))
	list := b.samples(3)
	graph.Of[float32](list[1]["in0"])[7] = float32(math.NaN())
	for _, score := range []string{ByFit, Activation} {
		_, _, err := Prune(t.Context(), &b.g, &b.net, list, Config{Budget: Budget{Keep: 0.5}, Multiple: 1, Score: score})
		if !errors.Is(err, fault.ErrNotFinite) {
			t.Errorf("%s: %v", score, err)
		}
	}
}

// A product that adds other numbers to each row, or one to each row, keeps them: they are no bias of outputs.
func TestRowsThatAreAdded(t *testing.T) {
	for _, shape := range [][]int{{2, 5}, {2, 1}} {
		b := newBuilder(17)
		y := b.node("Flatten", nil, b.relu(b.conv(b.input(2, 3, 6, 6), 3, 8, 1)))
		c := b.random(shape...)
		b.out(b.node("Gemm", nil, y, b.random(288, 5), c))
		g, rep, err := Prune(t.Context(), &b.g, &b.net, b.samples(8), Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1})
		if err != nil {
			t.Fatal(err)
		}
		last := g.Nodes[len(g.Nodes)-1]
		if last.Op != "Gemm" || !slices.Equal(graph.Of[float32](last.In[2].Const), graph.Of[float32](c.Const)) {
			t.Errorf("%v became %v: %+v", shape, last.In[2].Const.Shape, rep.Fits)
		}
	}
}

// Outputs are compared whether or not something was fitted; those without numbers are not said to be alike.
func TestOutputsThatAreCompared(t *testing.T) {
	for _, no := range []bool{false, true} {
		b := newBuilder(17)
		y := b.conv(b.relu(b.conv(b.input(1, 3, 6, 6), 3, 8, 1)), 8, 2, 1)
		b.out(y, b.node("ArgMax", map[string]graph.Attr{"axis": number(1)}, y))
		_, rep, err := Prune(t.Context(), &b.g, &b.net, b.samples(4), Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1, NoRefit: no})
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Outputs) != 1 || rep.Outputs[0].SQNR >= best {
			t.Errorf("without a fit %v: %+v", no, rep.Outputs)
		}
	}
	for _, c := range [][3]float64{{1, math.Inf(1), -best}, {1, math.NaN(), -best}, {1, 0, best}, {100, 1, 20}} {
		if got := decibel(c[0], c[1]); math.Abs(got-c[2]) > 1e-9 {
			t.Errorf("%g over %g is %g dB", c[0], c[1], got)
		}
	}
}

// What a picture of millions of positions is flattened to is not followed index by index.
func TestHugeAxes(t *testing.T) {
	b := newBuilder(17)
	b.out(b.node("Flatten", nil, b.conv(b.input(1, 1, 4096, 4096), 1, 2, 1)))
	_, _, err := Plan(t.Context(), &b.g, &b.net, nil, Config{Budget: Budget{Measure: Ratio, Keep: 0.5}, Multiple: 1})
	if err == nil || !strings.Contains(err.Error(), "too many indices") {
		t.Error(err)
	}
}

// Whoever waits for a choice among many groups can end it.
func TestChoiceEnds(t *testing.T) {
	b := newBuilder(17)
	kinds["residual"](b, b.input(1, 3, 6, 6))
	p, _, err := plan(t.Context(), &b.g, &b.net, nil, Config{Budget: Budget{Keep: 0.5}, Multiple: 1})
	if err != nil {
		t.Fatal(err)
	}
	shapes, err := p.shapes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, stays := range []float64{0.5, 2e9} { // the greedy choice, and the exchange alone
		s, err := newScale(p.t, shapes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := choose(ctx, p.groups, s, Budget{Keep: stays}); !errors.Is(err, context.Canceled) {
			t.Errorf("%g: %v", stays, err)
		}
	}
}
