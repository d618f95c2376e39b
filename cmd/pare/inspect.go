package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/ir"
)

// inspection is the object of `pare inspect --output json` (docs/schema/inspect.schema.json).
type inspection struct {
	Schema        int                `json:"schema"`
	Path          string             `json:"path"`
	Format        string             `json:"format"`
	Architecture  string             `json:"architecture"`
	Known         bool               `json:"executable"` // the architecture is one that pare can run
	Parameters    int64              `json:"parameters"`
	Bytes         int64              `json:"bytes"`
	BitsPerWeight float64            `json:"bits_per_weight"`
	Tokenizer     *inspectTokenizer  `json:"tokenizer"`
	Graph         *inspectGraph      `json:"graph"` // of models that are stored as operators
	Tensors       []inspectTensor    `json:"tensors"`
	Metadata      map[string]any     `json:"metadata"`
	Problems      []ir.Problem       `json:"problems"` // what reading found, then what the weights show
	Scanned       bool               `json:"scanned"`  // weights were read to find problems
	types         map[string]typeSum // of the table, by type
	sick          []ir.Problem       // those of Problems that the weights show
}

type inspectTokenizer struct {
	Model string `json:"model"`
	Vocab int    `json:"vocab"`
	Pre   string `json:"pre,omitempty"`
}

type inspectTensor struct {
	Name          string  `json:"name"`
	Role          ir.Role `json:"role"`
	Block         int     `json:"block"`
	Shape         []int   `json:"shape"`
	Type          string  `json:"type"`
	Bytes         int64   `json:"bytes"`
	BitsPerWeight float64 `json:"bits_per_weight"`
}

type typeSum struct {
	tensors int
	bytes   int64
}

func (a *app) inspectCmd() *cobra.Command {
	var tensors, fast bool
	c := &cobra.Command{
		Use:   "inspect MODEL",
		Short: "Say what is in a model: architecture, tensors, types, sizes, metadata, health",
		Long: `Say what is in a model, in any format that pare reads: architecture, tensors, types, sizes,
metadata, tokenizer, and whether the weights are healthy (NaN, infinities, groups with scale zero).
Of a graph (ONNX) it says inputs, outputs, operator sets and operators.`,
		Example: `  pare inspect books-llama/model
  pare inspect books-llama/model --tensors`,
		Args: exactly("a MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.openModel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			o := inspect(m)
			if !fast {
				if err := a.scan(cmd.Context(), m, o); err != nil {
					return err
				}
			}
			a.stopProgress()
			t := o.table()
			lines := make([]any, len(o.Tensors))
			for i := range o.Tensors {
				lines[i] = o.Tensors[i]
			}
			return a.show(result{object: o, lines: lines, table: t, text: func(w io.Writer) { o.text(w, t, tensors) }})
		},
	}
	c.Flags().BoolVar(&tensors, "tensors", false, "list every tensor")
	c.Flags().BoolVar(&fast, "fast", false, "do not read the weights: no health line")
	return c
}

// inspect describes a model without reading weights.
func inspect(m *ir.Model) *inspection {
	o := &inspection{
		Schema: 1, Path: m.Path, Format: m.Format, Architecture: m.Arch, Known: m.Known(),
		Parameters: m.Parameters(), Bytes: m.Bytes(), Tensors: []inspectTensor{}, Metadata: map[string]any{},
		Problems: append([]ir.Problem{}, m.Problems...), types: map[string]typeSum{}, Graph: graphOf(m.Graph),
	}
	add := func(x inspectTensor) {
		o.Tensors = append(o.Tensors, x)
		sum := o.types[x.Type]
		o.types[x.Type] = typeSum{sum.tensors + 1, sum.bytes + x.Bytes}
	}
	if s := m.Tokenizer; s != nil {
		o.Tokenizer = &inspectTokenizer{Model: string(s.Model), Vocab: len(s.Tokens), Pre: s.Pre}
	}
	for _, t := range m.Tensors() {
		bytes, _ := t.Bytes() // opening has checked it
		name := string(t.Type)
		if t.Scheme != nil {
			name = t.Scheme.String()
		}
		x := inspectTensor{Name: t.Name, Role: t.Role, Block: t.Block, Shape: t.Shape, Type: name, Bytes: bytes}
		if x.Shape == nil {
			x.Shape = []int{}
		}
		if n := t.Elems(); n > 0 {
			x.BitsPerWeight = 8 * float64(bytes) / float64(n)
		}
		add(x)
	}
	for _, x := range loose(m) {
		add(x)
		o.Bytes += x.Bytes
		n := int64(1)
		for _, d := range x.Shape {
			n *= int64(d)
		}
		o.Parameters += n
	}
	if o.Parameters > 0 {
		o.BitsPerWeight = 8 * float64(o.Bytes) / float64(o.Parameters)
	}
	for k, v := range m.Meta {
		o.Metadata[k] = shortened(v)
	}
	return o
}

// mostElements is how much of a metadata array is shown: vocabularies have a hundred thousand.
const mostElements = 8

// shortened keeps the beginning of a long array.
func shortened(v any) any {
	if x := reflect.ValueOf(v); x.IsValid() && x.Kind() == reflect.Slice && x.Len() > mostElements {
		return map[string]any{"length": x.Len(), "first": x.Slice(0, mostElements).Interface()}
	}
	if f, ok := v.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return fmt.Sprint(f)
	}
	if f, ok := v.(float32); ok && (math.IsNaN(float64(f)) || math.IsInf(float64(f), 0)) {
		return fmt.Sprint(f)
	}
	return v
}

// scan reads every weight once and adds what is wrong to the problems.
func (a *app) scan(ctx context.Context, m *ir.Model, o *inspection) error {
	band, err := a.scanBand(m)
	if err != nil {
		return err
	}
	sink := a.progressSink()
	sink.Stage("read", o.Bytes, "bytes")
	for i, t := range m.Tensors() {
		if m.Graph != nil && !isWeight(t) {
			sink.Add(o.Tensors[i].Bytes)
			continue
		}
		h, err := health(ctx, t, a.threads, band)
		if err != nil {
			return err
		}
		if m.Graph != nil && len(t.Shape) < 2 {
			h.nonzero++ // biases and states of zeros are common there
		}
		for _, p := range h.problems(t.Elems()) {
			o.sick = append(o.sick, ir.Problem{Tensor: t.Name, Reason: p})
		}
		sink.Add(o.Tensors[i].Bytes)
	}
	o.Problems = append(o.Problems, o.sick...)
	o.Scanned = true
	return nil
}

// healthOf counts what should not be in weights.
type healthOf struct{ nan, inf, nonzero, groups, flat int64 }

// scanBytes is decoded values held by one thread, where memory is not limited.
const scanBytes = 8 << 20

// scanBand is how much each thread decodes at a time: less where memory is limited, but one row.
func (a *app) scanBand(m *ir.Model) (int64, error) {
	a.budget.shares = int64(2 * par.Threads(a.threads)) // a band is read, then decoded
	row := int64(0)
	for _, t := range m.Tensors() {
		row = max(row, 4*int64(t.Cols()))
	}
	if err := a.afford("inspect", row); err != nil {
		return 0, err
	}
	if most := a.share(); most > 0 {
		return min(scanBytes, most), nil
	}
	return scanBytes, nil
}

// health reads a tensor in bands, several at a time.
func health(ctx context.Context, t *ir.Tensor, threads int, band int64) (sum healthOf, err error) {
	cols := t.Cols()
	rows := max(1, int(band)/4/max(cols, 1))
	info, _ := storage.Lookup(t.Type)
	var mu sync.Mutex
	err = par.Range(ctx, threads, t.Rows(), rows, func(_, lo, hi int) error {
		x := make([]float32, (hi-lo)*cols)
		if err := t.Data.ReadRows(ctx, x, lo, hi); err != nil {
			return ir.Wrap(t, "read", err)
		}
		var h healthOf
		for _, v := range x {
			switch {
			case v != v:
				h.nan++
			case math.IsInf(float64(v), 0):
				h.inf++
			case v != 0:
				h.nonzero++
			}
		}
		if info != nil && info.Grid != nil {
			if err := h.scales(ctx, t, info, lo, hi); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		sum.nan += h.nan
		sum.inf += h.inf
		sum.nonzero += h.nonzero
		sum.groups += h.groups
		sum.flat += h.flat
		return nil
	})
	return sum, err
}

// scales counts the groups of a block type whose scale is zero.
func (h *healthOf) scales(ctx context.Context, t *ir.Tensor, info *storage.Info, lo, hi int) error {
	size, err := t.PartBytes(ir.PartData, 0, 1)
	if err != nil {
		return ir.Wrap(t, "read", err)
	}
	row := make([]byte, size)
	var g storage.Grid
	for r := lo; r < hi; r++ {
		if err := t.Data.ReadRaw(ctx, ir.PartData, row, r, r+1); err != nil {
			return ir.Wrap(t, "read", err)
		}
		info.Grid(&g, row)
		for _, s := range g.Scale {
			h.groups++
			if s == 0 {
				h.flat++
			}
		}
	}
	return nil
}

// problems words what was counted, of n elements.
func (h healthOf) problems(n int64) (out []string) {
	for _, c := range []struct {
		n    int64
		what string
	}{{h.nan, "NaN"}, {h.inf, "infinite"}} {
		if c.n > 0 {
			out = append(out, fmt.Sprintf("%s of %s elements are %s", human.Thousands(c.n), human.Thousands(n), c.what))
		}
	}
	if n > 0 && h.nonzero == 0 && len(out) == 0 {
		return append(out, "all elements are zero")
	}
	if h.flat > 0 {
		out = append(out, fmt.Sprintf("%s of %s groups have scale zero: their weights are all alike", human.Thousands(h.flat), human.Thousands(h.groups)))
	}
	return out
}

func (o *inspection) table() *table {
	t := &table{head: []string{"tensor", "role", ">block", "shape", "type", ">bytes", ">bits"}}
	for _, x := range o.Tensors {
		dims := make([]string, len(x.Shape))
		for i, d := range x.Shape {
			dims[i] = fmt.Sprint(d)
		}
		block := ""
		if x.Block >= 0 {
			block = fmt.Sprint(x.Block)
		}
		row := []string{x.Name, string(x.Role), block, strings.Join(dims, "x"), x.Type, human.Bytes(x.Bytes), fmt.Sprintf("%.2f", x.BitsPerWeight)}
		exact := slices.Clone(row)
		exact[5], exact[6] = fmt.Sprint(x.Bytes), fmt.Sprint(x.BitsPerWeight)
		t.both(row, exact)
	}
	return t
}

// mostProblems is how many are shown of one kind; --tensors and --output json have all.
const mostProblems = 12

// text is what a person sees first.
func (o *inspection) text(w io.Writer, all *table, tensors bool) {
	head := []string{o.Format, o.Architecture}
	if o.Graph != nil {
		head = append(head, o.Graph.head())
	}
	head = append(head, human.Count(o.Parameters)+" parameters", human.Bytes(o.Bytes), fmt.Sprintf("%.2f bits per weight", o.BitsPerWeight))
	if t := o.Tokenizer; t != nil {
		name := fmt.Sprintf("tokenizer %s %d", t.Model, t.Vocab)
		if t.Pre != "" {
			name += " (" + t.Pre + ")"
		}
		head = append(head, name)
	}
	fmt.Fprintln(w, strings.Join(slices.DeleteFunc(head, func(s string) bool { return s == "" }), " · "))
	sums := &table{head: []string{"type", ">tensors", "share of bytes", ">"}}
	names := slices.SortedFunc(maps.Keys(o.types), func(x, y string) int {
		if d := o.types[y].bytes - o.types[x].bytes; d != 0 {
			return int(max(-1, min(1, d)))
		}
		return strings.Compare(x, y)
	})
	for _, n := range names {
		s := o.types[n]
		f := float64(s.bytes) / float64(max(o.Bytes, 1))
		sums.add(n, fmt.Sprint(s.tensors), fmt.Sprintf("%-24s", share(f, 24)), human.Percent(f, 0))
	}
	_ = sums.text(w) // a closed stdout is found by the next write of the process
	if o.Graph != nil {
		o.Graph.text(w)
	}
	if tensors {
		fmt.Fprintln(w)
		_ = all.text(w)
		fmt.Fprintln(w)
	}
	label := func(name, text string) { fmt.Fprintf(w, "%-8s %s\n", name, text) }
	list := func(name string, problems []ir.Problem) {
		for i, p := range problems {
			if i == mostProblems && !tensors {
				label("", fmt.Sprintf("and %d more (--tensors shows all)", len(problems)-i))
				return
			}
			if p.Tensor != "" {
				p.Reason = p.Tensor + "  " + p.Reason
			}
			label(name, p.Reason)
			name = ""
		}
	}
	switch {
	case len(o.sick) > 0:
		list("health", o.sick)
	case o.Scanned:
		label("health", "no NaN, no infinities, no zero scales")
	default:
		label("health", "not looked at (--fast)")
	}
	list("note", o.Problems[:len(o.Problems)-len(o.sick)])
	if !tensors {
		fmt.Fprintln(w, "(--tensors lists them; --output json for everything)")
	}
}
