package build

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
	"github.com/pare-dev/pare/runner/verify"
	"github.com/pare-dev/pare/targets/report"
)

// What a rejected package may cost beyond its comparison: enough to name the worst layers.
// `pare explain` looks closer.
const (
	blameTrials = 24
	blameLimit  = 20 * time.Second
	blameNamed  = 3
)

// blame names the tensors that lost a gate about accuracy, worst first, with the flag that stores each
// better and its price in bytes.
func (e *engine) blame(ctx context.Context, j *job, m *ir.Model) error {
	if passes(j.rep.Verdict) || e.check == nil || e.r.Verify.Off || !slices.ContainsFunc(j.rep.Gate.Checks, lostAccuracy) {
		return nil
	}
	return e.timed("explain", j.t.Name, func() (bool, error) {
		e.meter.Stage("explain "+j.t.Name, 0, "models")
		defer e.mapping(2)()
		load := func(m *ir.Model) (*runner.Runner, error) {
			e.meter.Add(1)
			return e.load(ctx, m)
		}
		ex, err := verify.Explain(ctx, e.ref, m, load, e.check.ids, verify.ExplainOptions{
			Options: verify.Options{Context: e.r.Verify.Context, Chunks: 1, BOS: e.start(e.check), TextHash: e.check.SHA256, Progress: progress.Discard},
			Trials:  blameTrials, Limit: blameLimit,
		})
		if errors.Is(err, verify.ErrSame) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		worst := slices.Clone(ex.Losses)
		slices.SortStableFunc(worst, func(a, b verify.Loss) int { return cmp.Compare(b.KL, a.KL) })
		for _, l := range worst {
			if l.Type != "" && l.KL > 0 && len(j.rep.Losses) < blameNamed {
				j.rep.Losses = append(j.rep.Losses, e.inSource(l, m))
			}
		}
		return false, nil
	})
}

func lostAccuracy(c verify.Check) bool {
	return c.Verdict != report.Pass && slices.Contains([]string{"kl_mean", "kl_p99", "top1", "perplexity_increase"}, c.Name)
}

// inSource spells a loss with the name that the source has for the tensor.
func (e *engine) inSource(l verify.Loss, m *ir.Model) verify.Loss {
	t := m.Find(l.Tensor)
	if t == nil || t.Role == ir.RoleUnknown {
		return l
	}
	if src := e.ref.Role(t.Role, t.Block); src != nil {
		l.Tensor = src.Name
		if _, typ, ok := strings.Cut(l.Keep, "="); ok {
			l.Keep = src.Name + "=" + typ
		}
	}
	return l
}
