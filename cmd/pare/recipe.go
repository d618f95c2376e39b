package main

import (
	"encoding/json"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/targets/build"
	"github.com/pare-dev/pare/targets/recipe"
)

func (a *app) checkCmd() *cobra.Command {
	var schema bool
	c := &cobra.Command{
		Use:   "check RECIPE",
		Short: "Check a recipe and print it with every default spelled out",
		Example: `  pare init books-llama/model -o books.toml
  pare check books.toml`,
		Args: atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if schema {
				enc := json.NewEncoder(a.out)
				enc.SetIndent("", "  ")
				return enc.Encode(recipe.JSONSchema())
			}
			if err := exactly("a RECIPE")(cmd, args); err != nil {
				return err
			}
			r, err := recipe.Load(args[0])
			if err != nil {
				return err
			}
			if err := build.Check(r); err != nil {
				return err
			}
			object := struct {
				Schema int            `json:"schema"`
				Recipe *recipe.Recipe `json:"recipe"`
			}{1, r}
			t := &table{head: []string{"recipe", "model", "targets"}}
			var uses []string
			for _, x := range r.Targets {
				uses = append(uses, x.Use)
			}
			t.add(args[0], r.Source.Model, strings.Join(uses, " "))
			return a.show(result{object: object, table: t, text: func(w io.Writer) { _, _ = w.Write(r.TOML()) }})
		},
	}
	c.Flags().BoolVar(&schema, "schema", false, "print the JSON Schema of recipes, for editors")
	return c
}
