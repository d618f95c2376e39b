package samples

import (
	"context"
	"fmt"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/runner/eval"
	"github.com/pare-dev/pare/runner/verify"
)

// Score measures graphs by what a gate limits, on the samples of a set, so that more is better: of gates that want
// little it is the negative. It is what a search for mixed precision is given.
func Score(original *Network, set *Set, labels []int, opt eval.Options, gate string) func(ctx context.Context, g *graph.Graph) (float64, error) {
	return func(ctx context.Context, g *graph.Graph) (float64, error) {
		p, err := eval.Compile(g, opt)
		if err != nil {
			return 0, err
		}
		c := Comparison{Result: &verify.Graphs{}, Labels: labels}
		if err := c.Run(ctx, original, &Network{Path: original.Path, Program: p}, set); err != nil {
			return 0, err
		}
		c.Result.Judge(verify.Limits{gate: 0}, verify.Bytes{})
		check := c.Result.Gate.Checks[0]
		if check.Level == 0 {
			return 0, &fault.Error{
				Op: "gate", Err: fault.As(fault.ErrMisuse, fmt.Errorf("%s cannot be measured on these samples", gate)),
				Hint: "labels go with accuracy_drop, f1_drop and auc_drop; top1 takes a network that ranks classes",
			}
		}
		if verify.AtLeast(gate) {
			return check.Value, nil
		}
		return -check.Value, nil
	}
}
