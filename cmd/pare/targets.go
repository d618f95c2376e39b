package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/npu"
)

func (a *app) targetsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "targets [NAME]",
		Short: "List the targets, or say what one can take and gains",
		Example: `  pare targets
  pare targets arm64
  pare targets npu-qnn`,
		Args: atMost(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return targets.Names(), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			list := targets.All()
			if len(args) == 1 {
				t, err := targets.Lookup(args[0])
				if err != nil {
					return err
				}
				list = []*targets.Target{t}
			}
			object := struct {
				Schema  int               `json:"schema"`
				Targets []*targets.Target `json:"targets"`
			}{1, list}
			t := &table{head: []string{"target", "default", "container", "for", "opens in"}}
			var lines []any
			for _, x := range list {
				format, runtimes := "onnx", []targets.Runtime(nil)
				if x.Graph != nil {
					runtimes = x.Graph.Runtimes
				}
				if len(x.Containers) > 0 {
					format, runtimes = x.Containers[0].Format, x.Containers[0].Runtimes
				}
				var runs []string
				for _, r := range runtimes {
					runs = append(runs, r.Name)
				}
				t.add(x.Name, method(x.Quantize, x.Calibrated), format, x.Doc, strings.Join(runs, ", "))
				lines = append(lines, x)
			}
			r := result{object: object, lines: lines, table: t}
			if len(args) == 1 {
				r.text = func(w io.Writer) { describeTarget(w, list[0]) }
			}
			return a.show(r)
		},
	}
}

func method(quantize, calibrated string) string {
	if calibrated == "" || calibrated == "rtn" {
		return quantize
	}
	return quantize + " " + calibrated
}

func runtimeText(r targets.Runtime) string {
	text := strings.TrimSpace(r.Name + " " + r.Since)
	if r.Note != "" {
		text += " (" + r.Note + ")"
	}
	return text
}

// rulesText writes what a neural processor takes of a network.
func rulesText(line func(name, text string), r *npu.Rules) {
	if r == nil {
		return
	}
	line("rules", r.Source)
	line("  opset", fmt.Sprintf("%d to %d; codes of 16 and 4 bits from %d, or of com.microsoft", r.Opset[0], r.Opset[1], r.Narrow))
	shapes := "every dimension known ahead"
	if r.Dynamic {
		shapes = "dimensions may be unknown"
	}
	line("  shapes", fmt.Sprintf("%s, %d at most", shapes, r.Rank))
	line("  codes", strings.Join(r.Codes, " "))
	if r.Symmetric {
		line("", "zero points in the middle")
	}
	if r.PowerOfTwo {
		line("", "scales are powers of two")
	}
	for _, f := range r.Forms {
		if len(f.Types) == 0 {
			continue
		}
		on := strings.Join(f.Types, " ")
		if len(f.Weights) > 0 {
			on += ", weights " + strings.Join(f.Weights, " ")
		}
		if len(f.With) > 0 {
			on += ", second operand " + strings.Join(f.With, " ")
		}
		line("  "+on, "")
		line("", strings.Join(f.Ops, " "))
	}
}

// describeTarget writes one target's table of capabilities.
func describeTarget(w io.Writer, t *targets.Target) {
	line := func(name, text string) {
		switch {
		case text != "":
			fmt.Fprintf(w, "%-11s %s\n", name, text)
		case strings.HasPrefix(name, "  "): // a heading
			fmt.Fprintln(w, name)
		}
	}
	fmt.Fprintf(w, "%s: %s\n", t.Name, t.Doc)
	if len(t.Containers) > 0 {
		line("default", method(t.Quantize, t.Calibrated))
	}
	options := func(list []targets.Option) {
		for i, o := range list {
			name := ""
			if i == 0 {
				name = "or"
			}
			line(name, o.Quantize+": "+o.Why)
		}
	}
	options(t.Options)
	line("processor", strings.TrimSpace(t.Arch+" "+t.ISA))
	for _, c := range t.Containers {
		var types []string
		for _, typ := range c.Types {
			types = append(types, string(typ))
		}
		line("container", c.Format)
		line("  types", strings.Join(types, " "))
		for _, s := range c.Schemes {
			groups := make([]string, len(s.Groups))
			for i, g := range s.Groups {
				switch g {
				case 0:
					groups[i] = "per row"
				case -1:
					groups[i] = "per tensor"
				default:
					groups[i] = fmt.Sprint(g)
				}
			}
			zero := "symmetric"
			if s.Asymmetric {
				zero += " or with zero points"
			}
			line("  scheme", fmt.Sprintf("%s: %d bits, groups %s, %s, rows a multiple of %d, columns of %d", s.Name, s.Bits, strings.Join(groups, " or "), zero, max(1, s.RowsMultiple), max(1, s.ColsMultiple)))
		}
		for _, r := range c.Runtimes {
			line("  opens in", runtimeText(r))
		}
	}
	if g := t.Graph; g != nil {
		line("networks", "onnx, "+g.Quantize)
		options(g.Options)
		for _, r := range g.Runtimes {
			line("  opens in", runtimeText(r))
		}
		for _, n := range g.Notes {
			line("  note", n)
		}
		rulesText(line, g.Rules)
		if g.NotExecuted != t.NotExecuted {
			line("  not run", g.NotExecuted)
		}
	}
	line("zeros", t.Zeros)
	for _, n := range t.Notes {
		line("note", n)
	}
	line("not run", t.NotExecuted)
}
