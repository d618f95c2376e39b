package main

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/storage"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/runner/verify"
)

// typeNames are the words that --quantize, --type and the right side of --keep take.
func typeNames() []string {
	var names []string
	for _, p := range quantize.Presets() {
		names = append(names, p.Name)
	}
	return append(names, "int4g128", "int4g64", "int4g32", "int8")
}

func completeTypes(c *cobra.Command, flag string) { complete(c, flag, typeNames()...) }

// completeGates offers the names of gates, with what they mean.
func completeGates(c *cobra.Command) {
	var words []string
	for _, n := range slices.Sorted(maps.Keys(verify.GateNames)) {
		words = append(words, n+"=\t"+verify.GateNames[n])
	}
	completeWith(c, "gate", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
}

// completePatterns offers the tensors of the model on the line, with layer numbers replaced by a
// star; after "=" the stored types.
func completePatterns(c *cobra.Command, flag string, withType bool) {
	completeWith(c, flag, func(_ *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		how := cobra.ShellCompDirectiveNoFileComp
		if left, _, ok := strings.Cut(typed, "="); ok && withType {
			words := []string{left + "=keep"}
			for _, i := range storage.All() {
				if i.Encode != nil {
					words = append(words, left+"="+string(i.Type))
				}
			}
			return words, how
		}
		if len(args) == 0 {
			return nil, how
		}
		// a shell waits for this: a second is enough to read the catalogue of any model
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		m, err := formats.Open(ctx, args[0])
		if err != nil {
			return nil, how
		}
		defer m.Close()
		seen := map[string]bool{}
		for _, t := range m.Tensors() {
			name := strings.TrimSuffix(strings.TrimSuffix(t.Name, ".weight"), ".bias")
			parts := strings.Split(name, ".")
			for i, p := range parts {
				if p != "" && strings.Trim(p, "0123456789") == "" {
					parts[i] = "*"
				}
			}
			seen[strings.Join(parts, ".")] = true
		}
		words := slices.Sorted(maps.Keys(seen))
		if withType {
			for i := range words {
				words[i] += "="
			}
			how |= cobra.ShellCompDirectiveNoSpace
		}
		return words, how
	})
}
