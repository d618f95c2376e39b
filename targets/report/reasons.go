package report

import (
	"fmt"
	"strings"
)

// Reason is why tensors are not what was asked for, with every tensor that it holds for.
type Reason struct {
	Tensors []string
	To      string // the type they are stored in; empty for tensors that a pass left alone
	Text    string
}

// Pattern stands for tensors whose names differ in numbers only, in the form that --keep takes.
type Pattern struct {
	Name  string // "model.layers.*.input_layernorm.weight", or the name when it is one tensor
	Count int
}

// Reasons gathers what was skipped, kept or fell back, each reason once and under it each tensor
// once, in the order of the file.
func (t *Target) Reasons() []Reason {
	var out []Reason
	at := map[[2]string]int{}
	seen := map[[2]string]bool{}
	add := func(tensor, to, text string) {
		// a pass that skips a tensor says so, and planning says so of the tensor: that is one fact
		if seen[[2]string{tensor, text}] {
			return
		}
		seen[[2]string{tensor, text}] = true
		i, ok := at[[2]string{to, text}]
		if !ok {
			i = len(out)
			at[[2]string{to, text}] = i
			out = append(out, Reason{To: to, Text: text})
		}
		if tensor != "" {
			out[i].Tensors = append(out[i].Tensors, tensor)
		}
	}
	for _, x := range t.Tensors {
		if x.Reason != "" {
			add(x.Name, x.To, x.Reason)
		}
	}
	for _, l := range t.Skipped {
		add(l.Tensor, "", l.Reason)
	}
	for _, p := range t.Passes {
		for _, l := range p.Skipped {
			if strings.HasPrefix(p.Name, "prune.") {
				l.Reason = "not pruned: " + l.Reason
			}
			add(l.Tensor, "", l.Reason)
		}
	}
	return out
}

// Patterns joins the tensors of a reason whose names differ in numbers only.
func (r Reason) Patterns() []Pattern {
	var out []Pattern
	at := map[string]int{}
	for _, name := range r.Tensors {
		parts := strings.Split(name, ".")
		for i, p := range parts {
			if p != "" && strings.Trim(p, "0123456789") == "" {
				parts[i] = "*"
			}
		}
		key := strings.Join(parts, ".")
		i, ok := at[key]
		if !ok {
			at[key] = len(out)
			out = append(out, Pattern{name, 1})
			continue
		}
		out[i].Name = key
		out[i].Count++
	}
	return out
}

// mostPatterns is how many patterns a line of text lists.
const mostPatterns = 4

// Names lists the tensors of a reason in a line: "blk.*.attn_norm.weight (6), output_norm.weight".
// quote marks each name.
func (r Reason) Names(quote func(string) string) string {
	var parts []string
	left := 0
	for i, p := range r.Patterns() {
		switch {
		case i >= mostPatterns:
			left += p.Count
		case p.Count > 1:
			parts = append(parts, fmt.Sprintf("%s (%d)", quote(p.Name), p.Count))
		default:
			parts = append(parts, quote(p.Name))
		}
	}
	text := strings.Join(parts, ", ")
	if left > 0 {
		text += fmt.Sprintf(" and %d more", left)
	}
	return text
}

// Why is the reason with the type that it led to: "q6_k: the preset keeps the output matrix higher".
func (r Reason) Why() string {
	if r.To == "" {
		return r.Text
	}
	return r.To + ": " + r.Text
}
