package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/targets"
)

func (a *app) targetsCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "targets [NAME]",
		Short: "List the targets, or say what one can take and gains",
		Example: `  pare targets
  pare targets arm64`,
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
				c := x.Containers[0]
				var runs []string
				for _, r := range c.Runtimes {
					runs = append(runs, r.Name)
				}
				t.add(x.Name, method(x.Quantize, x.Calibrated), c.Format, x.Doc, strings.Join(runs, ", "))
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

// describeTarget writes one target's table of capabilities.
func describeTarget(w io.Writer, t *targets.Target) {
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(w, "%-11s %s\n", name, text)
		}
	}
	fmt.Fprintf(w, "%s: %s\n", t.Name, t.Doc)
	line("default", method(t.Quantize, t.Calibrated))
	for i, o := range t.Options {
		name := ""
		if i == 0 {
			name = "or"
		}
		line(name, o.Quantize+": "+o.Why)
	}
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
			text := strings.TrimSpace(r.Name + " " + r.Since)
			if r.Note != "" {
				text += " (" + r.Note + ")"
			}
			line("  opens in", text)
		}
	}
	line("zeros", t.Zeros)
	for _, n := range t.Notes {
		line("note", n)
	}
	line("not run", t.NotExecuted)
}
