package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/quantize/qgraph"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/recipe"
	"github.com/pare-dev/pare/targets/samples"
)

// mixFlags ask for as many layers in float as an accuracy takes.
type mixFlags struct {
	gates   []string
	samples []string
	labels  string
}

func (fl *mixFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringArrayVar(&fl.gates, "gate", nil, "of graphs `NAME=LIMIT`, such as sqnr_db=30 or accuracy_drop=0.001: the layers that cost most stay in float until it is met")
	f.StringArrayVar(&fl.samples, "samples", nil, "`FILE` that --gate is measured on; the calibration samples unless given; repeat it for several inputs")
	f.StringVar(&fl.labels, "labels", "", "`FILE` with the right class of every sample that --gate is measured on")
	for _, name := range []string{"gate", "samples", "labels"} {
		f.Lookup(name).Annotations = map[string][]string{noEnv: {"input"}}
	}
}

// mixed says what a search for mixed precision found.
type mixed struct {
	Gate       string  `json:"gate"`
	Limit      float64 `json:"limit"`
	Integer    float64 `json:"integer"` // what is measured with every layer on integers
	Reached    float64 `json:"reached"`
	Considered int     `json:"considered"` // layers, and layers with their readers, whose cost was measured
	Float      int     `json:"float"`      // layers that stay float
	Trades     []trade `json:"trades"`     // those, the ones that bring most first
}

// trade is a layer in float, or one with those that read it.
type trade struct {
	Node  string  `json:"node"`        // joined by " + "
	Alone float64 `json:"alone"`       // what is measured with it as the only one in float
	With  float64 `json:"with"`        // with it and those before it
	Bytes int64   `json:"price_bytes"` // how much larger its weights are
}

// mixGates are the limits that a search can meet.
var mixGates = []string{"sqnr_db", "sqnr_all_db", "cosine", "top1", "accuracy_drop", "f1_drop", "auc_drop"}

// mix searches for the layers that stay float; none without a gate.
func (a *app) mix(ctx context.Context, n *network, calibration *samples.Set, s *qgraph.Static, fl *mixFlags, r *graphQuantization) (map[*graph.Node]bool, error) {
	if len(fl.gates) == 0 {
		return nil, nil
	}
	limits := recipe.Gate{}
	if err := limits.Set(fl.gates[0]); err != nil {
		return nil, flagFault("gate", err)
	}
	if err := verify.CheckLimits(limits.Limits()); err != nil || len(fl.gates) > 1 {
		if err == nil {
			err = misusef("layers are chosen by one limit; compare the others with pare verify")
		}
		return nil, flagFault("gate", err)
	}
	m := &mixed{Trades: []trade{}}
	for name, limit := range limits.Limits() {
		m.Gate, m.Limit = name, limit
	}
	if !slices.Contains(mixGates, m.Gate) {
		return nil, flagFault("gate", misusef("layers cannot be chosen by %s; choose %s", m.Gate, strings.Join(mixGates, ", ")))
	}
	set := calibration
	if len(fl.samples) > 0 {
		in := inputFlags{inputs: fl.samples}
		var err error
		if set, err = samples.Open(n.Program.Inputs(), in.given(n.Program.Inputs()), calibration.Options()); err != nil {
			return nil, err
		}
		defer set.Close()
	}
	var labels []int
	if fl.labels != "" {
		var err error
		if labels, err = samples.Labels(fl.labels); err != nil {
			return nil, err
		}
	}
	sign := -1.0
	if verify.AtLeast(m.Gate) {
		sign = 1
	}
	sink := a.progressSink()
	sink.Stage("mix", 0, "trials")
	score := samples.Score(&n.Network, set, labels, a.networkOptions(), m.Gate)
	found, err := s.Mix(ctx, func(ctx context.Context, g *graph.Graph) (float64, error) {
		defer sink.Add(1)
		return score(ctx, g)
	}, sign*m.Limit)
	if err != nil {
		return nil, err
	}
	m.Integer, m.Reached, m.Considered = sign*found.Full, sign*found.Reached, found.Considered
	m.Float = len(found.Float)
	for _, t := range found.Trades {
		m.Trades = append(m.Trades, trade{t.Node, sign * t.Alone, sign * t.Score, 3 * int64(t.Weights)})
	}
	r.Mix = m
	return found.Float, nil
}

// text is the trade as a person reads it.
func (m *mixed) text(w io.Writer) {
	if len(m.Trades) == 0 {
		fmt.Fprintf(w, "%s %s on integers alone: nothing has to stay float\n", m.Gate, human.Float(m.Integer))
		return
	}
	t := &table{head: []string{"stays float", ">" + m.Gate + " with it alone", ">with those above", ">price"}}
	for _, x := range m.Trades {
		t.add(x.Node, human.Float(x.Alone), human.Float(x.With), "+"+human.Bytes(x.Bytes))
	}
	_ = t.text(w) // a closed stdout is found by the next write
	fmt.Fprintf(w, "%s %s → %s with %s in float; %d choices were measured\n", m.Gate, human.Float(m.Integer), human.Float(m.Reached), plural(m.Float, "layer"), m.Considered)
}
