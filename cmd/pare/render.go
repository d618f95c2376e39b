package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// result is what a verb hands to stdout, in every form that --output can ask for.
type result struct {
	object any               // json: the contract of docs/schema
	lines  []any             // jsonl: one object a line; the object itself when nil
	table  *table            // csv and md, and the default of text
	text   func(w io.Writer) // table: what a person reads; the table when nil
}

// show writes a result as --output asks.
func (a *app) show(r result) error {
	switch a.output.value {
	case "json":
		enc := json.NewEncoder(a.out)
		enc.SetIndent("", "  ")
		return enc.Encode(r.object)
	case "jsonl":
		enc := json.NewEncoder(a.out)
		if r.lines == nil {
			r.lines = []any{r.object}
		}
		for _, l := range r.lines {
			if err := enc.Encode(l); err != nil {
				return err
			}
		}
		return nil
	case "csv":
		return r.table.csv(a.out)
	case "md":
		return r.table.markdown(a.out)
	}
	if r.text != nil {
		r.text(a.out)
		return nil
	}
	return r.table.text(a.out)
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

// style returns an escape code when w is a terminal that takes colours.
func (a *app) style(w io.Writer, code string) string {
	if a.noColor || w == a.out && !a.outTerminal || w == a.err && !a.errTerminal {
		return ""
	}
	return "\x1b[" + code + "m"
}

// table is rows of cells. Columns whose name starts with ">" are aligned to the right.
type table struct {
	head  []string
	rows  [][]string
	exact [][]string // the same cells for machines (csv), when they differ
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// both adds a row as people read it and as machines do.
func (t *table) both(people, machines []string) {
	t.rows = append(t.rows, people)
	t.exact = append(t.exact, machines)
}

func (t *table) names() []string {
	names := make([]string, len(t.head))
	for i, h := range t.head {
		names[i] = strings.TrimPrefix(h, ">")
	}
	return names
}

// text writes aligned columns, two spaces between them.
func (t *table) text(w io.Writer) error {
	names := t.names()
	wide := make([]int, len(names))
	for _, row := range append([][]string{names}, t.rows...) {
		for i, c := range row {
			wide[i] = max(wide[i], utf8.RuneCountInString(c))
		}
	}
	for _, row := range append([][]string{names}, t.rows...) {
		var line strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", wide[i]-utf8.RuneCountInString(c))
			if strings.HasPrefix(t.head[i], ">") {
				c = pad + c
			} else {
				c += pad
			}
			if i > 0 {
				line.WriteString("  ")
			}
			line.WriteString(c)
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) csv(w io.Writer) error {
	c := csv.NewWriter(w)
	rows := t.exact
	if rows == nil {
		rows = t.rows
	}
	if err := c.Write(t.names()); err != nil {
		return err
	}
	if err := c.WriteAll(rows); err != nil {
		return err
	}
	return c.Error()
}

func (t *table) markdown(w io.Writer) error {
	var b strings.Builder
	line := func(cells []string) {
		for _, c := range cells {
			b.WriteString("| " + strings.ReplaceAll(c, "|", `\|`) + " ")
		}
		b.WriteString("|\n")
	}
	line(t.names())
	for _, h := range t.head {
		if strings.HasPrefix(h, ">") {
			b.WriteString("|---:")
		} else {
			b.WriteString("|---")
		}
	}
	b.WriteString("|\n")
	for _, r := range t.rows {
		line(r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// share draws a fraction as a bar of at most width cells, in eighths.
func share(f float64, width int) string {
	eighths := int(f*float64(width)*8 + 0.5)
	s := strings.Repeat("█", eighths/8)
	if r := eighths % 8; r > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[r-1])
	}
	if s == "" && f > 0 {
		s = "▏"
	}
	return s
}

// times spells a ratio of sizes or speeds: "0.31x".
func times(f float64) string { return fmt.Sprintf("%.2fx", f) }
