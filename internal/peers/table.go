package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
)

const (
	begin = "<!-- bench:begin (written by make bench) -->"
	end   = "<!-- bench:end -->"
)

// figure is a number with three digits that say something.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case a >= 100 || a == 0:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case a >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case a >= 1:
		return strconv.FormatFloat(v, 'f', 2, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

// String is "12.3 (11.9–12.8)": the median, the tenth and the ninetieth percentile.
func (s *Spread) String() string {
	if s == nil {
		return "–"
	}
	if len(s.All) < 2 {
		return figure(s.Median)
	}
	return fmt.Sprintf("%s (%s–%s)", figure(s.Median), figure(s.P10), figure(s.P90))
}

// limit is a bar's limit as the table shows it.
func (b *Bar) limit(v float64) string {
	sign := "≥"
	if b.Below {
		sign = "≤"
	}
	unit := b.Unit
	if unit != "×" {
		unit = " " + unit
	}
	return sign + " " + figure(v) + unit
}

// cell makes text safe inside a Markdown table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s)
}

// markdown writes the generated block: machine, peers, and a table for each part.
func (r *Report) markdown(w io.Writer, order []string) {
	missed, met, aim := r.counts()
	fmt.Fprintf(w, "%s, %d threads. Peers: %s.\n\n", r.Machine, r.Threads, strings.Join(r.Peers, "; "))
	fmt.Fprintf(w, "Of %d bars %d reach the aim, %d what is required, %d are missed.\n", missed+met+aim, aim, met, missed)
	for _, name := range order {
		p, ok := r.Parts[name]
		if !ok {
			fmt.Fprintf(w, "\n### %s\n\nNot measured yet: `make bench ONLY=%s`.\n", name, name)
			continue
		}
		fmt.Fprintf(w, "\n### %s\n\n", p.Title)
		fmt.Fprintf(w, "%s, commit %s, %d rounds", p.Date, p.Commit, p.Rounds)
		if p.Read != nil {
			fmt.Fprintf(w, "; memory gave %s GB/s", spreadOf(scaled(p.Read.All, 1e-9)))
		}
		fmt.Fprint(w, ".\n\n| | pare | peer | times better | required | aim | verdict |\n|---|--:|--:|--:|--:|--:|---|\n")
		for _, row := range p.Rows {
			row.markdown(w)
		}
	}
}

func (r *Row) markdown(w io.Writer) {
	name := r.Name
	if r.Unit != "" {
		name += ", " + r.Unit
	}
	side := func(s *Spread, whose string) string {
		if s == nil {
			return ""
		}
		if whose != "" {
			return s.String() + " " + whose
		}
		return s.String()
	}
	required, aim, verdict := "", "", ""
	if r.Bar != nil {
		required, aim, verdict = r.Bar.limit(r.Bar.Required), r.Bar.limit(r.Bar.Aim), r.Bar.Verdict()
		if verdict == "missed" {
			verdict = "**missed**"
		}
	}
	for _, more := range []string{r.Note, r.Why} {
		if more != "" {
			verdict = strings.TrimPrefix(verdict+"; "+more, "; ")
		}
	}
	fmt.Fprintf(w, "| %s | %s | %s | %s | %s | %s | %s |\n", cell(name), side(r.Pare, ""), cell(side(r.Peer, r.Whose)), side(r.Ratio, ""), required, aim, cell(verdict))
}

// splice replaces what stands between the markers of a document.
func splice(doc, block string) (string, error) {
	from, to := strings.Index(doc, begin), strings.Index(doc, end)
	if from < 0 || to < from {
		return "", fmt.Errorf("the lines %q and %q are missing", begin, end)
	}
	return doc[:from+len(begin)] + "\n\n" + strings.TrimSpace(block) + "\n\n" + doc[to:], nil
}

// writeDoc puts the report into a document.
func (r *Report) writeDoc(path string, order []string) error {
	old, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var b strings.Builder
	r.markdown(&b, order)
	text, err := splice(string(old), b.String())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.WriteFile(path, []byte(text), 0o644) //nolint:gosec // a document of the repository
}
