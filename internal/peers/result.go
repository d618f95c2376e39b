package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"slices"
)

// Row is one line of the table: a figure of pare, that of a peer where there is one, and what it is
// judged by.
type Row struct {
	Name  string  `json:"name"`
	Unit  string  `json:"unit,omitempty"`
	Pare  *Spread `json:"pare,omitempty"`
	Peer  *Spread `json:"peer,omitempty"`
	Whose string  `json:"whose,omitempty"` // the peer's name
	// Ratio says how many times better pare is, above 1 also where less is better: that of the medians,
	// with the percentiles of the rounds.
	Ratio *Spread `json:"ratio,omitempty"`
	Bar   *Bar    `json:"bar,omitempty"`
	Note  string  `json:"note,omitempty"`
	Why   string  `json:"why,omitempty"` // it could not be measured, or not compared
}

// Bar is a limit of issue and aim: a value must not be below Required, or not above it when Below is set.
// A limit that is not a number is none.
type Bar struct {
	Value    float64 `json:"value"`
	Unit     string  `json:"unit"`
	Below    bool    `json:"below,omitempty"`
	Required float64 `json:"required"`
	Aim      float64 `json:"aim"`
}

// Verdict is "aim", "met", "missed", or "" where the value is not known.
func (b *Bar) Verdict() string {
	reached := func(limit float64) bool {
		if b.Below {
			return b.Value <= limit
		}
		return b.Value >= limit
	}
	switch {
	case b == nil || math.IsNaN(b.Value):
		return ""
	case reached(b.Aim):
		return "aim"
	case reached(b.Required):
		return "met"
	}
	return "missed"
}

// compare fills in both sides of a row and the ratio; more is whether more is better. A side without
// figures leaves the row without a ratio.
func (r Row) compare(pare, peer []float64, more bool) Row {
	r.Pare, r.Peer = spreadOf(pare), spreadOf(peer)
	if r.Pare == nil || r.Peer == nil {
		return r
	}
	if more {
		r.Ratio = spreadOf(each(pare, peer, divide))
		r.Ratio.Median = r.Pare.Median / r.Peer.Median
	} else {
		r.Ratio = spreadOf(each(peer, pare, divide))
		r.Ratio.Median = r.Peer.Median / r.Pare.Median
	}
	return r
}

// bar judges the row by its ratio.
func (r Row) bar(required, aim float64) Row {
	r.Bar = &Bar{Value: math.NaN(), Unit: "×", Required: required, Aim: aim}
	if r.Ratio != nil {
		r.Bar.Value = r.Ratio.Median
	}
	if math.IsNaN(r.Bar.Value) { // JSON has no NaN, and a bar without a value judges nothing
		if r.Why == "" {
			r.Why = "nothing to compare with"
		}
		r.Bar = nil
	}
	return r
}

// below judges the row by pare's own figure, which must not be larger.
func (r Row) below(required, aim float64) Row {
	if r.Pare != nil {
		r.Bar = &Bar{Value: r.Pare.Median, Unit: r.Unit, Below: true, Required: required, Aim: aim}
	}
	return r
}

// above judges the row by pare's own figure, which must not be smaller.
func (r Row) above(required, aim float64) Row {
	if r.Pare != nil {
		r.Bar = &Bar{Value: r.Pare.Median, Unit: r.Unit, Required: required, Aim: aim}
	}
	return r
}

// failed is a row that says why it holds no figure.
func failed(name string, err error) Row { return Row{Name: name, Why: err.Error()} }

// Part is a group of rows that were measured together.
type Part struct {
	Name   string `json:"name"`
	Title  string `json:"title"`
	Date   string `json:"date"`
	Commit string `json:"commit"`
	Rounds int    `json:"rounds"`
	// What it was measured on and beside: parts are measured at different times, with what there was then.
	Machine string   `json:"machine"`
	Threads int      `json:"threads"`
	Peers   []string `json:"peers,omitempty"`
	Seconds float64  `json:"seconds"`
	Read    *Spread  `json:"read,omitempty"` // bytes a second that memory gave beside the rounds
	Rows    []Row    `json:"rows"`
}

// schema of results.json; the first had one machine and one list of peers for all parts.
const schema = 2

// Report is everything; parts that a run leaves out stay as they were.
type Report struct {
	Schema int             `json:"schema"`
	Parts  map[string]Part `json:"parts"`
}

// loadReport reads what earlier runs left; nothing when there is none.
func loadReport(path string) (*Report, error) {
	r := &Report{Schema: schema, Parts: map[string]Part{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	if r.Schema != schema {
		return nil, fmt.Errorf("%s has schema %d, not %d: move it away to measure anew", path, r.Schema, schema)
	}
	return r, nil
}

func (r *Report) save(path string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644) //nolint:gosec // figures are for everybody
}

// counts is how many bars are missed, met, and met as far as the aim.
func (r *Report) counts() (missed, met, aim int) {
	for _, name := range slices.Sorted(maps.Keys(r.Parts)) {
		for _, row := range r.Parts[name].Rows {
			switch row.Bar.Verdict() {
			case "missed":
				missed++
			case "met":
				met++
			case "aim":
				aim++
			}
		}
	}
	return missed, met, aim
}
