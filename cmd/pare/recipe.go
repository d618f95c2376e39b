package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/build"
	"github.com/pare-dev/pare/targets/recipe"
)

// starter is the recipe that `pare init` writes; every line that is not a default is a comment.
const starter = `# A recipe for pare: pare build -r %[1]s -o dist
# Every key and its meaning: docs/recipe.md, or pare check --schema.

[source]
model    = %[2]q          # a Hugging Face folder, .safetensors, .gguf or llama2.c .bin
# adapters = ["my-lora"]  # PEFT folders, merged in this order; "DIR:0.5" merges at half weight

[calibration]
# text   = ["calibration.txt"]  # text like the text the model will see; makes 4-bit types much better
tokens   = 65536
seed     = 7

# [[pass]]
# use      = "prune.magnitude"  # or "prune.wanda", which needs calibration text
# sparsity = 0.5
# pattern  = "2:4"
%[3]s
[verify]
# text   = ["test.txt"]         # text that calibration does not see
context  = 512

[gate]
kl_mean             = 0.05      # nats per token, upper 95 %% bound
top1                = 0.90
perplexity_increase = "4%%"
# decode_speedup    = 1.5       # against the original, same machine, same run
`

func (a *app) initCmd() *cobra.Command {
	var names []string
	var out string
	var force bool
	c := &cobra.Command{
		Use:     "init [MODEL]",
		Short:   "Write a starter recipe, with every choice explained",
		Example: `  pare init books-llama/model -t arm64 -t x86-64-v4 -o recipe.toml`,
		Args:    atMost(1),
		RunE: func(_ *cobra.Command, args []string) error {
			model := "path/to/model"
			if len(args) == 1 {
				model = args[0]
				if rel, err := filepath.Rel(filepath.Dir(out), model); err == nil && !filepath.IsAbs(model) {
					model = rel // paths in a recipe are relative to the recipe
				}
			}
			var sections strings.Builder
			for _, n := range names {
				t, err := targets.Lookup(n)
				if err != nil {
					return err
				}
				fmt.Fprintf(&sections, "\n[[target]]\nuse      = %q  # %s\nquantize = %q\n", t.Name, t.Doc, t.Quantize)
				for _, o := range t.Options {
					fmt.Fprintf(&sections, "# quantize = %q  # %s\n", o.Quantize, o.Why)
				}
			}
			text := fmt.Sprintf(starter, out, model, sections.String())
			if _, err := recipe.Parse(out, []byte(text)); err != nil {
				return err
			}
			if out == "-" {
				a.printf("%s", text)
				return nil
			}
			how := os.O_WRONLY | os.O_CREATE | os.O_EXCL
			if force {
				how = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
			}
			f, err := os.OpenFile(out, how, 0o644)
			if errors.Is(err, fs.ErrExist) {
				return &fault.Error{File: out, Err: fault.As(fault.ErrMisuse, fs.ErrExist), Hint: "--force replaces it"}
			}
			if err != nil {
				return err
			}
			if _, err := f.WriteString(text); err != nil {
				return errors.Join(err, f.Close())
			}
			if err := f.Close(); err != nil {
				return err
			}
			if !a.quiet {
				a.say("wrote %s; next: pare plan -r %s", out, out)
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringArrayVarP(&names, "target", "t", []string{"arm64"}, "`TARGET` to write a section for; repeat it for several")
	f.StringVarP(&out, "out", "o", "recipe.toml", "`FILE` to write, - for stdout")
	f.BoolVar(&force, "force", false, "replace the file")
	complete(c, "target", targets.Names()...)
	return c
}

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
