package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pare-dev/pare/formats"
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
%-32[3]s# text like the text the model will see; makes 4-bit types much better
tokens   = 65536
seed     = 7

# [[pass]]
# use      = "prune.magnitude"  # or "prune.wanda", which needs calibration text
# sparsity = 0.5
# pattern  = "2:4"
%[5]s
[verify]
%-32[4]s# text that calibration does not see
context  = 512

# Every limit must be kept, or the package is not published (exit code 3).
[gate]
%-32[6]s# nats per token, upper 95 %% bound; what is usual for these types
# top1                = 0.9     # share of tokens on which both agree; small models agree less
# perplexity_increase = "4%%"
# decode_speedup      = 1.5     # against the original, same machine, same run
`

func (a *app) initCmd() *cobra.Command {
	var names []string
	var out string
	var force bool
	c := &cobra.Command{
		Use:   "init [MODEL]",
		Short: "Write a starter recipe, with every choice explained",
		Long: `Write a starter recipe, with every choice explained. Limits are those that are usual for the types of
the targets. Texts called calibration and test that lie beside the model, or in a folder text there,
are written in.`,
		Example: `  pare init books-llama/model -t arm64 -t x86-64-v4 -o recipe.toml`,
		Args:    atMost(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			model := "path/to/model"
			if len(args) == 1 {
				model = args[0]
			}
			text, err := starterFor(cmd.Context(), model, names, out)
			if err != nil {
				return err
			}
			r, err := recipe.Parse(out, []byte(text))
			if err != nil {
				return err
			}
			if err := build.Check(r); err != nil { // what the next command would refuse is not written
				return err
			}
			if out == "-" {
				a.printf("%s", text)
				return nil
			}
			if err := writeNew(out, text, force); err != nil {
				return err
			}
			if a.quiet {
				return nil
			}
			next := "pare plan -r " + shellLine([]string{out})
			if _, err := os.Stat(model); err != nil {
				next = "write the model's path into it: there is nothing at " + model
			}
			a.say("wrote %s; next: %s", out, next)
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

// starterFor fills the starter in for a model and targets. Paths in it are relative to the recipe.
func starterFor(ctx context.Context, model string, names []string, out string) (string, error) {
	var parameters int64
	if m, err := formats.Open(ctx, model); err == nil { // a recipe may be written before the model is there
		parameters = m.Parameters()
		defer m.Close()
		if m.Graph != nil {
			return graphStarterFor(m, model, names, out)
		}
	}
	var sections strings.Builder
	limit := 0.0
	for _, n := range names {
		t, err := targets.Lookup(n)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&sections, "\n[[target]]\nuse      = %q  # %s\nquantize = %q\n", t.Name, t.Doc, t.Quantize)
		for _, o := range t.Options {
			fmt.Fprintf(&sections, "# quantize = %q  # %s\n", o.Quantize, o.Why)
		}
		kl, err := build.UsualKL(t.Quantize, parameters)
		if err != nil {
			return "", err
		}
		limit = max(limit, kl) // one limit for all packages: that of the smallest type
	}
	gate := "# kl_mean  = 0.05"
	if limit > 0 {
		gate = fmt.Sprintf("kl_mean  = %.2g", limit)
	}
	recipeFile := out
	if out == "-" {
		recipeFile = "recipe.toml"
	}
	return fmt.Sprintf(starter, shellLine([]string{recipeFile}), relativeTo(out, model),
		textLine(out, model, "calibration"), textLine(out, model, "test"), sections.String(), gate), nil
}

// relativeTo spells a path as a recipe at out does.
func relativeTo(out, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	// Both from the root: of "/r" and "m", or "../r" and "m", neither says where the other is.
	dir, err := filepath.Abs(filepath.Dir(out))
	if err != nil {
		return path
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(dir, abs)
	if err != nil {
		rel = abs // on another drive
	}
	return filepath.ToSlash(rel)
}

// textLine names the text of a kind that lies beside the model; a comment when there is none.
func textLine(out, model, kind string) string {
	for _, dir := range []string{model, filepath.Dir(filepath.Clean(model))} {
		for _, name := range []string{filepath.Join("text", kind), kind} {
			file := filepath.Join(dir, name+".txt")
			if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
				return fmt.Sprintf("text     = [%q]  ", relativeTo(out, file))
			}
		}
	}
	return fmt.Sprintf("# text   = [%q]  ", kind+".txt")
}

// writeNew writes a file that must not exist yet, unless force is given.
func writeNew(path, text string, force bool) error {
	if err := ordinary(path); err != nil {
		return err
	}
	how := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if force {
		how = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	}
	f, err := os.OpenFile(path, how, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return &fault.Error{File: path, Err: fault.As(fault.ErrMisuse, fs.ErrExist), Hint: "--force replaces it"}
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
