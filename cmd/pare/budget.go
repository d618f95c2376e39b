package main

import (
	"github.com/pare-dev/pare/internal/human"
	"github.com/pare-dev/pare/internal/proc"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// budget is how --max-memory is shared out by the verbs that run models themselves. Build and the
// steps do the same in their engine: what the process takes all along comes off first, an eighth of
// the rest is left for garbage, and work that does not fit is refused before it starts.
type budget struct {
	shares int64            // equal parts: models that run side by side, and what else takes as much
	held   map[string]int64 // catalogues and tokenizers of models that were opened, by path
}

// opened counts a model in. One path is one model, however often it is opened.
func (b *budget) opened(path string, m *ir.Model) {
	if b.held == nil {
		b.held = map[string]int64{}
	}
	b.held[path] = runner.Held(m)
}

// base is what the process takes whatever is run.
func (b *budget) base() int64 {
	n := int64(proc.Program + proc.Slack)
	for _, held := range b.held {
		n += held
	}
	return n
}

// share is what each part may take of a limit; 0 means no limit.
func (a *app) share() int64 {
	if a.maxMemory <= 0 {
		return 0
	}
	return max(1<<20, (int64(a.maxMemory)-a.budget.base())/8*7/max(1, a.budget.shares))
}

// afford refuses work whose parts take more than their shares.
func (a *app) afford(op string, part int64) error {
	return proc.Afford(op, a.budget.base()+part*max(1, a.budget.shares)/7*8, int64(a.maxMemory), "")
}

// affordRun refuses to run models, side by side where there are several, when that takes too much, and
// makes room for the pages of their weights. more is what each may take beside, in bytes.
func (a *app) affordRun(op string, more int64, opt runner.Options, models ...*ir.Model) error {
	if a.maxMemory <= 0 {
		return nil
	}
	opt.Threads = a.threads
	var most, mapped int64
	for _, m := range models {
		need, err := runner.Demand(m, opt)
		if err != nil {
			return err
		}
		most, mapped = max(most, need), mapped+min(m.FileBytes, a.share())
	}
	if err := a.afford(op, most+more); err != nil {
		return err
	}
	proc.LimitMemory(int64(a.maxMemory), mapped)
	return nil
}

// overrun says so when more memory was taken than --max-memory allows.
func (a *app) overrun() {
	if peak := proc.PeakMemory(); a.maxMemory > 0 && peak > int64(a.maxMemory) {
		a.say("peak memory was %s, above the %s of --max-memory", human.Bytes(peak), human.Bytes(int64(a.maxMemory)))
	}
}
