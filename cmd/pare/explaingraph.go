package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/ir/rewrite"
	"github.com/pare-dev/pare/quantize/qgraph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/samples"
)

// graphExplanation is the object of `pare explain --output json` for graphs: layers that compute with codes, ranked by
// what all outputs gain when one of them computes as the original does.
type graphExplanation struct {
	Schema   int         `json:"schema"` // 1
	Original string      `json:"original"`
	Package  string      `json:"package"`
	Samples  int         `json:"samples"`
	SQNR     float64     `json:"sqnr_db"` // of all outputs of the package together
	Losses   []graphLoss `json:"losses"`  // largest gain first
	Untried  int         `json:"untried"` // segments that could not be put back alone
}

// graphLoss is what one layer, or several between values that the original has too, costs.
type graphLoss struct {
	Layer []string `json:"layers"`
	Value string   `json:"value"`       // what it makes
	Here  float64  `json:"here_db"`     // signal to noise of that value, of this layer and all before it
	With  float64  `json:"with_db"`     // of all outputs, with this layer as the original computes it
	Gain  float64  `json:"gain_db"`     // over the package as it is
	Keep  []string `json:"keep"`        // patterns that leave it in float: --keep "PATTERN", each
	Price int64    `json:"price_bytes"` // how much larger its constants are then
}

// mostExplained is how many samples layers are ranked by.
const mostExplained = 16

// explainGraphs tries every layer of a package in the form of the original, and closes both models.
func (a *app) explainGraphs(ctx context.Context, orig, made *ir.Model, paths [2]string, fl *verifyFlags, top int) (err error) {
	defer func() { err = errors.Join(err, orig.Close(), made.Close()) }()
	if orig.Graph == nil || made.Graph == nil {
		return misuse("compare two graphs, or two language models", "one of the models is a graph, the other is not")
	}
	if len(fl.graph.inputs) == 0 {
		return misuse("add --samples FILE", "there is nothing to compare on")
	}
	float, err := eval.Compile(orig.Graph, a.networkOptions())
	if err != nil {
		return inFile(paths[0], err)
	}
	inputs := float.Inputs()
	set, err := fl.graph.set(a, inputs, fl.graph.given(inputs), true)
	if err != nil {
		return err
	}
	defer set.Close()
	list, err := (&samples.Network{Path: paths[0], Program: float}).Given(ctx, set)
	if err != nil {
		return err
	}
	net, err := a.passNetwork(ctx, list)
	if err != nil {
		return err
	}
	plain, _, err := qgraph.Prepare(ctx, orig.Graph, net, min(rewrite.Newest, made.Graph.Opset[""]))
	if err != nil {
		return inFile(paths[0], err)
	}
	e := &graphExplanation{Schema: 1, Original: paths[0], Package: paths[1], Samples: min(mostExplained, set.Len()), Losses: []graphLoss{}}
	base, err := a.compareGraphs(ctx, plain, made.Graph, paths, set, true)
	if err != nil {
		return err
	}
	here := map[string]float64{}
	for _, l := range append(base.Layers, base.Outputs...) {
		here[l.Name] = l.SQNR
	}
	e.SQNR = base.All.SQNR
	segments := rewrite.Segments(plain, made.Graph)
	sink := a.progressSink()
	sink.Stage("try", int64(len(segments)), "layers")
	for i := range segments {
		s := &segments[i]
		l := graphLoss{Value: s.Value, Here: here[s.Value], Price: s.Before - s.After}
		for _, n := range s.Layers() {
			l.Layer = append(l.Layer, n.Label())
			l.Keep = append(l.Keep, cmp.Or(n.Name, n.Output(0).Name))
		}
		sink.Add(1)
		g, err := s.Graft()
		if err != nil { // something that it reads is made later in the package
			e.Untried++
			continue
		}
		with, err := a.compareGraphs(ctx, plain, g, paths, set, false)
		if err != nil {
			return err
		}
		l.With, l.Gain = with.All.SQNR, with.All.SQNR-e.SQNR
		e.Losses = append(e.Losses, l)
	}
	if len(e.Losses) == 0 {
		return misuse("pare verify --layers compares values inside", "no layer of the package computes with codes between values that the original has, too")
	}
	slices.SortStableFunc(e.Losses, func(x, y graphLoss) int { return cmp.Compare(y.Gain, x.Gain) })
	a.stopProgress()
	t := &table{head: []string{"layer", ">dB there", ">gain dB", "flag that buys it back", ">price"}}
	var lines []any
	for i, l := range e.Losses {
		lines = append(lines, l)
		if top == 0 || i < top {
			t.both([]string{some(l.Layer, " + ", ""), fmt.Sprintf("%.1f", l.Here), fmt.Sprintf("%+.2f", l.Gain), some(l.Keep, " ", "--keep "), "+" + human.Bytes(max(0, l.Price))},
				[]string{strings.Join(l.Layer, " + "), fmt.Sprint(l.Here), fmt.Sprint(l.Gain), strings.Join(l.Keep, " "), fmt.Sprint(l.Price)})
		}
	}
	return a.show(result{object: e, lines: lines, table: t, text: func(w io.Writer) {
		fmt.Fprintf(w, "all outputs %.1f dB; %s on codes, each tried alone as the original computes it\n", e.SQNR, plural(len(e.Losses), "layer"))
		_ = t.text(w) // a closed stdout is found by the next write
		if e.Untried > 0 {
			fmt.Fprintf(w, "%s could not be put back alone\n", plural(e.Untried, "layer"))
		}
		fmt.Fprintf(w, "measured on %s: gains need not add up\n", plural(e.Samples, "sample"))
	}})
}

// some joins a few names; of many the first, and how many more.
func some(names []string, sep, before string) string {
	const few = 2
	var list []string
	for _, n := range names[:min(few, len(names))] {
		if before != "" {
			n = strconv.Quote(n)
		}
		list = append(list, before+n)
	}
	if more := len(names) - few; more > 0 {
		list = append(list, fmt.Sprintf("%d more", more))
	}
	return strings.Join(list, sep)
}

// compareGraphs compares a graph with the original on the first samples.
func (a *app) compareGraphs(ctx context.Context, original, made *graph.Graph, paths [2]string, set *samples.Set, layers bool) (*verify.Graphs, error) {
	c := samples.Comparison{Result: &verify.Graphs{}, Most: mostExplained}
	var nets [2]*samples.Network
	for i, g := range []*graph.Graph{original, made} {
		opt := a.networkOptions()
		if layers {
			opt.Observe = []func(*graph.Value, *graph.Tensor) error{c.Remember, c.Compare}[i]
		}
		p, err := eval.Compile(g, opt)
		if err != nil {
			return nil, inFile(paths[i], err)
		}
		nets[i] = &samples.Network{Path: paths[i], Program: p}
	}
	if err := c.Run(ctx, nets[0], nets[1], set); err != nil {
		return nil, err
	}
	c.Result.Judge(verify.Limits{}, verify.Bytes{})
	return c.Result, nil
}
