package build

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/prune"
	"github.com/pare-dev/pare/prune/channels"
	"github.com/pare-dev/pare/quantize"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets"
	"github.com/pare-dev/pare/targets/recipe"
)

// order is the sequence in which work on weights makes sense, with the reason why each comes before
// the next. A recipe that asks for another order is refused with that reason.
var order = []struct{ pass, before string }{
	{"lora.merge", "an adapter was trained on the whole weights: merged later it would fill the zeros again and be rounded away"},
	{"prune.width|prune.depth", structureFirst},
	{"prune.", "what is pruned must be decided on exact weights, and quantization must see the weights that remain"},
}

const structureFirst = "what is taken out whole would take zeros along, and the layers that are fitted to it would fill theirs"

func rank(pass string) int {
	for i, o := range order {
		for _, prefix := range strings.Split(o.pass, "|") {
			if strings.HasPrefix(pass, prefix) {
				return i
			}
		}
	}
	return len(order)
}

// Check finds every mistake in a recipe that can be found without opening the model: unknown targets
// and types, malformed patterns, an order of passes that makes no sense, gates out of range.
func Check(r *recipe.Recipe) error {
	var errs []error
	bad := func(op, hint, format string, a ...any) {
		errs = append(errs, &fault.Error{Op: op, Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, a...)), Hint: hint})
	}
	if r.Source.Model == "" {
		bad("recipe", `write [source] model = "FOLDER" or give the model on the command line`, "no model is named")
	}
	errs = append(errs, checkPasses(r.Passes, len(r.Source.Adapters) > 0)...)
	errs = append(errs, checkDistill(r.Distill))
	names := map[string]bool{}
	for i := range r.Targets {
		t := &r.Targets[i]
		table, err := targets.Lookup(t.Use)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		name := nameOf(t)
		switch {
		case names[strings.ToLower(name)]:
			bad("target "+t.Use, `name each target once; in a recipe, packages for one target have names of their own: name = "`+name+`-2"`, "two packages are called %q", name)
		case name != filepath.Base(name) || strings.HasPrefix(name, "."):
			bad("target "+t.Use, "", "%q is not a name for a folder", name)
		}
		names[strings.ToLower(name)] = true
		errs = append(errs, checkTarget(t, table, r.Source.Model))
	}
	if err := verify.CheckLimits(r.Gate.Limits()); err != nil {
		errs = append(errs, err)
	}
	for _, name := range sortedKeys(r.Gate) {
		switch speed := strings.HasSuffix(name, "_speedup"); {
		case name == "size_ratio":
		case speed && r.Bench.Off:
			bad("gate "+name, "leave out --no-bench, or off = true under [bench] in the recipe", "latency is not measured")
		case !speed && r.Verify.Off:
			bad("gate "+name, "leave out --no-verify, or off = true under [verify] in the recipe", "accuracy is not measured")
		}
	}
	return errors.Join(errs...)
}

// checkTarget finds what is wrong with a target whatever the source is: a choice must make sense for a language
// model or for a graph. Which of them it is, is known when the source is open.
func checkTarget(t *recipe.Target, table *targets.Target, model string) error {
	language, network := checkLanguageTarget(t, table), checkGraphTarget(t, table)
	switch {
	case language == nil || network == nil:
		return nil
	case len(table.Containers) == 0, t.Container == graphContainer, len(graphTargetKeys(t)) > 0, strings.HasSuffix(model, ".onnx"):
		return network
	}
	return language
}

// checkLanguageTarget finds what is wrong with a target of a language model.
func checkLanguageTarget(t *recipe.Target, table *targets.Target) error {
	_, box := table.Container(t.Container)
	_, typ := request(t, table)
	_, method := quantize.LookupMethod(t.Method)
	return errors.Join(box, typ, method)
}

func checkPasses(passes []recipe.Pass, adapters bool) (errs []error) {
	bad := func(op, hint, format string, a ...any) {
		errs = append(errs, &fault.Error{Op: op, Err: fault.As(fault.ErrMisuse, fmt.Errorf(format, a...)), Hint: hint})
	}
	for i := range passes {
		p := &passes[i]
		if i > 0 && rank(p.Use) < rank(passes[i-1].Use) {
			bad("recipe", "put "+p.Use+" first", "%s comes after %s: %s", p.Use, passes[i-1].Use, order[rank(p.Use)].before)
		}
		for _, pattern := range append(append([]string{}, p.Only...), p.Skip...) {
			if err := ir.CheckPattern(pattern); err != nil {
				errs = append(errs, err)
			}
		}
		switch {
		case p.Use == "lora.merge" && !adapters:
			bad(p.Use, "name the adapters in [source]", "there is no adapter to merge")
		case p.Use == "lora.merge" && (p.Sparsity != nil || p.Pattern != "" || p.Scope != "" || p.Only != nil || p.Skip != nil || p.Schedule != nil || p.Refit != nil || p.Structured()):
			bad(p.Use, "its options stand in [source]", "the merge takes no options here")
		case p.Use == channels.Pass:
			if _, err := channelsConfig(p); err != nil {
				errs = append(errs, err)
			}
		case p.FLOPs != nil || p.Floor != 0:
			bad(p.Use, "use "+channels.Pass, "flops and floor are about channels of graphs")
		case p.Structured() && (prune.Lookup(p.Use) == nil || !prune.Lookup(p.Use).Structured):
			bad(p.Use, "use prune.width or prune.depth, of graphs prune.channels, or say which weights become zero with sparsity or pattern", "ratio, parameters, bytes, ffn, kv_heads, hidden, blocks, multiple and score take out whole parts")
		case p.Refit != nil && !*p.Refit && p.Use != "prune.sparsegpt" && p.Use != "prune.width":
			bad(p.Use, "leave it out", "refit = false where no weights are changed")
		}
	}
	return errs
}

// nameOf is the folder name of a target's package.
func nameOf(t *recipe.Target) string {
	if t.Name != "" {
		return t.Name
	}
	return t.Use
}

// request is what a target asks of package quantize, defaults from the target's table.
func request(t *recipe.Target, table *targets.Target) (quantize.Request, error) {
	name := t.Quantize
	if name == "" {
		name = table.Quantize
	}
	req, err := quantize.ParseRequest(name)
	if err != nil {
		return req, err
	}
	var errs []error
	for _, k := range t.Keep {
		o, err := quantize.ParseOverride(k)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		req.Overrides = append(req.Overrides, o)
	}
	return req, errors.Join(errs...)
}
