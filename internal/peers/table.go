package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
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

// folders are those of a path of this machine, which say nothing to readers of the document; what follows a
// letter is part of a name or an address.
var folders = regexp.MustCompile(`(^|[\s'"(=])(?:/[^\s'"():;,/]+)+/`)

// reason is why something failed, without the machine it failed on.
func reason(s string) string { return folders.ReplaceAllString(s, "$1") }

// markdown writes the generated block: what was measured on what, and a table for each part.
func (r *Report) markdown(w io.Writer, order []part) {
	missed, met, aim := r.counts()
	fmt.Fprintf(w, "Of %d bars %d reach the aim, %d what is required, %d are missed.\n", missed+met+aim, aim, met, missed)
	for _, which := range order {
		fmt.Fprintf(w, "\n### %s\n\n", which.title)
		p, ok := r.Parts[which.name]
		if !ok {
			fmt.Fprintf(w, "Not measured yet: `make bench ONLY=%s`.\n", which.name)
			continue
		}
		fmt.Fprintf(w, "%s, %d threads; %s, commit %s, %d rounds", p.Machine, p.Threads, p.Date, p.Commit, p.Rounds)
		if p.Read != nil {
			fmt.Fprintf(w, "; memory gave %s GB/s", spreadOf(scaled(p.Read.All, 1e-9)))
		}
		fmt.Fprint(w, ".")
		if len(p.Peers) > 0 {
			fmt.Fprintf(w, " Peers: %s.", reason(strings.Join(p.Peers, "; ")))
		}
		if strings.HasSuffix(p.Commit, "-dirty") {
			fmt.Fprint(w, " The sources had changes beyond this commit, so it alone does not give these figures again.")
		}
		fmt.Fprint(w, "\n\n| | pare | peer | times better | required | aim | verdict |\n|---|--:|--:|--:|--:|--:|---|\n")
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
	for _, more := range []string{r.Note, reason(r.Why)} {
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
func (r *Report) writeDoc(path string, order []part) error {
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
