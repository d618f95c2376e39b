package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/runner/verify"
)

var (
	//go:embed page/report.html.tmpl
	pageText string
	//go:embed page/style.css
	pageStyle string
	//go:embed page/sort.js
	pageScript string
)

// page is what the template reads.
type page struct {
	*Report
	Style      template.CSS
	Script     template.JS
	Summary    Summary
	Scatter    template.HTML
	Learned    template.HTML // "" when nothing was trained
	Targets    []targetView
	Provenance []fact
	RecipeText string
}

// targetView is one target with what is derived from it.
type targetView struct {
	T       *Target
	Type    string
	Before  int64 // bytes of the source
	Charts  []template.HTML
	Sample  *sampleView
	Figures []string // columns of the tensor table, sorted
	Reasons []Reason
	Graph   *graphView
	Did     []string // what pruning of this target alone did
}

// fact is one line of the provenance.
type fact struct {
	Name, Text string
	Code       bool
}

// sampleView is the text of both models, cut where they part.
type sampleView struct {
	T                          *verify.Text
	Prompt, Common             string
	MarkA, RestA, MarkB, RestB string
}

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"channels": ChannelsText,
	"base":     func(p string) string { return filepath.Base(filepath.Clean(p)) },
	"bytes":    human.Bytes,
	"float":    human.Float,
	"whole":    func(v float64) string { return human.Thousands(int64(math.Round(v))) },
	"percent":  func(v float64) string { return human.Percent(v, 1) },
	"check":    CheckText,
	"seconds":  seconds,
	"amount":   amount,
	"shape":    shape,
	"numeric":  numeric,
	"foot":     func(i int) string { return superscript(i + 1) },
	"figure":   figureCell,
	"names":    htmlNames,
}).Parse(pageText))

// HTML is the report as one self-contained file: no network, light and dark, readable on a phone.
func (r *Report) HTML() ([]byte, error) {
	p := page{
		Report: r, Style: template.CSS(pageStyle), Script: template.JS(pageScript), //nolint:gosec // files of this package
		Summary: r.Summarize(), Scatter: r.scatterChart(), Learned: r.Distill.chart(), Provenance: r.provenance(), RecipeText: r.recipeText(),
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		v := targetView{T: t, Type: TypeName(t), Before: r.Source.Bytes, Figures: figureNames(t), Reasons: t.Reasons(), Did: t.did(), Graph: t.view(), Sample: cutSample(t.Sample)}
		for _, c := range []template.HTML{t.layerChart(), t.klChart(), t.latencyChart()} {
			if c != "" {
				v.Charts = append(v.Charts, c)
			}
		}
		p.Targets = append(p.Targets, v)
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, p); err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	return b.Bytes(), nil
}

// provenance lists what the numbers depend on.
func (r *Report) provenance() []fact {
	var facts []fact
	add := func(name, text string, code bool) {
		if text != "" {
			facts = append(facts, fact{name, text, code})
		}
	}
	add("tool", r.Tool, false)
	add("source", r.Source.Path, true)
	add("source digest", r.Source.Digest, true)
	for _, a := range r.Adapters {
		add("adapter", a.Path, true)
		add("adapter digest", a.Digest, true)
	}
	if c := r.Calibration; c != nil {
		add("calibration", fmt.Sprintf("%s, %s tokens", c.Name, human.Thousands(int64(c.Tokens))), false)
		add("calibration coverage", c.Coverage(), false)
		add("calibration digest", c.SHA256, true)
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		add(t.Name, t.Package, true)
		add(t.Name+" digest", t.Digest, true)
		add(t.Name+" bytes", sameBytes(t.SameBytes), false)
		if len(t.Runtimes) > 0 {
			add(t.Name+" opens in", strings.Join(t.Runtimes, ", "), false)
		}
	}
	for i := range r.Targets {
		if p := r.Targets[i].Protocol; p != nil {
			name := p.Name
			if t := r.Targets[i].Text; t != nil {
				name = t.Name + ", " + name
			}
			add("measured on", fmt.Sprintf("%s: %d chunks of %d tokens, %s scored", name, p.Chunks, p.Context, human.Thousands(int64(p.TokensScored))), false)
			add("text digest", p.TextSHA256, true)
			break
		}
	}
	m := r.Machine
	if m.CPU != "" || m.Arch != "" {
		text := fmt.Sprintf("%s, %s/%s, %s kernels, %d threads", m.CPU, m.OS, m.Arch, m.ISA, m.Threads)
		if m.ReadGBps > 0 {
			text += fmt.Sprintf(", reads %.0f GB/s", m.ReadGBps)
		}
		add("measured here", text, false)
	}
	return facts
}

func sameBytes(where string) string {
	if where == "" {
		return ""
	}
	return "the same on " + where
}

// did says what the passes of one target did, besides quantizing.
func (t *Target) did() (lines []string) {
	for i := range t.Passes {
		p := &t.Passes[i]
		if strings.HasPrefix(p.Name, "prune.") {
			lines = append(lines, fmt.Sprintf("%s set %s of the weights of %d matrices to zero", p.Name, human.Percent(p.Sparsity(), 1), p.Changed))
		}
		lines = append(lines, p.Notes...)
	}
	return lines
}

// htmlNames lists the tensors of a reason, each name as code.
func htmlNames(r Reason) template.HTML {
	return template.HTML(r.Names(func(s string) string { return "<code>" + template.HTMLEscapeString(s) + "</code>" })) //nolint:gosec // names are escaped
}

// figureNames are the figures that any tensor has, sorted.
func figureNames(t *Target) []string {
	all := map[string]bool{}
	for _, x := range t.Tensors {
		for name := range x.Figures {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// figureCell is one figure in the tensor table, with its plain value for sorting.
func figureCell(t Tensor, name string) template.HTML {
	v, ok := t.Figures[name]
	if !ok {
		return `<td class="num" data-v="-1"></td>`
	}
	return template.HTML(fmt.Sprintf(`<td class="num" data-v="%g">%s</td>`, v, human.Float(v))) //nolint:gosec // two numbers
}

// cutSample finds where the two texts part and marks one word from there.
func cutSample(t *verify.Text) *sampleView {
	if t == nil || t.Original.Sample == "" && t.Package.Sample == "" {
		return nil
	}
	a, b := []rune(t.Original.Sample), []rune(t.Package.Sample)
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	for n > 0 && (n < len(a) || n < len(b)) && !unicode.IsSpace(a[n-1]) {
		n-- // mark from the beginning of the word
	}
	v := &sampleView{T: t, Prompt: t.Prompt, Common: string(a[:n])}
	v.MarkA, v.RestA = firstWord(a[n:])
	v.MarkB, v.RestB = firstWord(b[n:])
	return v
}

// firstWord splits after the first word.
func firstWord(s []rune) (word, rest string) {
	n := 0
	for n < len(s) && unicode.IsSpace(s[n]) {
		n++
	}
	for n < len(s) && !unicode.IsSpace(s[n]) {
		n++
	}
	return string(s[:n]), string(s[n:])
}

func seconds(s float64) string { return human.Duration(time.Duration(s * float64(time.Second))) }

func amount(s Stage) string {
	switch {
	case s.Amount == 0:
		return ""
	case s.Unit == "bytes":
		return human.Bytes(s.Amount)
	}
	return human.Thousands(s.Amount) + " " + s.Unit
}

func shape(dims []int) string {
	words := make([]string, len(dims))
	for i, d := range dims {
		words[i] = fmt.Sprint(d)
	}
	return strings.Join(words, " × ")
}

// numeric says which columns of the summary are figures.
func numeric(column int) bool { return column >= 2 && column <= 7 }

func superscript(n int) string {
	var b strings.Builder
	for _, c := range fmt.Sprint(n) {
		b.WriteRune(superscripts[c-'0'])
	}
	return b.String()
}
