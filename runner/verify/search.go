package verify

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/runner"
)

// explainer tries models, each with some tensors put back, within its bounds.
type explainer struct {
	ctx    context.Context
	base   *runner.Runner
	pkg    *ir.Model
	load   func(*ir.Model) (*runner.Runner, error)
	tokens []int32
	opt    Options
	whole  float64 // KL of the package as it is
	left   int     // models that may still be tried
	until  time.Time
	out    *Explanation
}

// spent says that a bound leaves no room for one more model.
func (e *explainer) spent() bool {
	return e.left <= 0 || !e.until.IsZero() && time.Now().After(e.until)
}

// kl compares the package, with some tensors put back, with the original.
func (e *explainer) kl(back []unit) (*Result, error) {
	m := e.pkg.Clone()
	for _, u := range back {
		for _, r := range u {
			if err := m.Replace(r.pkg.With(r.original.Type, r.original.Scheme, r.original.Data)); err != nil {
				return nil, err
			}
		}
	}
	r, err := e.load(m)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return Run(e.ctx, e.base, r, e.tokens, e.opt)
}

// loss tries one model and records what the units put back in it cost the package: one unit, or a
// group with a name.
func (e *explainer) loss(name string, back []unit) (float64, error) {
	e.left--
	r, err := e.kl(back)
	if err != nil {
		return 0, err
	}
	l := Loss{Tensor: name, KL: e.whole - r.KL.Mean}
	for _, u := range back {
		for _, p := range u {
			n, err := p.pkg.Bytes()
			if err != nil {
				return 0, err
			}
			l.Bytes += n
		}
	}
	if e.whole > 0 {
		l.Share = l.KL / e.whole
	}
	if name == "" {
		u := back[0]
		l.Tensor, l.Type = u[0].pkg.Name, u.typeName()
		if len(u) > 1 {
			l.Tensor = u.pattern()
		}
		l.Keep, l.Price = u.better(e.pkg)
	}
	e.out.Losses = append(e.out.Losses, l)
	return l.KL, nil
}

// group is a run of blocks; tensors outside the blocks are one of their own, block -1.
type group struct {
	first, last int
	units       []unit
	kl          float64
}

func (g *group) name() string {
	switch {
	case g.last < 0:
		return "outside the blocks"
	case g.first == g.last:
		return fmt.Sprintf("block %d", g.first)
	}
	return fmt.Sprintf("blocks %d to %d", g.first, g.last)
}

// search tries tensors one by one when there is room for all of them. Otherwise it tries groups of
// blocks, which takes two thirds of the room at most, and goes on in the worst. It returns how many
// tensors were tried one by one.
func (e *explainer) search(all []unit) (tried int, err error) {
	groups := split(all, e.left*2/3)
	if len(all) <= e.left || len(groups) < 2 {
		// within one block the large tensors come first: they hold most of what was lost
		if len(all) > e.left {
			all = slices.Clone(all)
			sort.SliceStable(all, func(i, j int) bool { return all[i].elems() > all[j].elems() })
		}
		for _, u := range all {
			if e.spent() {
				break
			}
			if _, err := e.loss("", []unit{u}); err != nil {
				return tried, err
			}
			tried += len(u)
		}
		return tried, nil
	}
	e.out.Grouped = true
	var ranked []*group
	for _, g := range groups {
		if e.spent() {
			break
		}
		if len(g.units) == 1 { // a group of one needs no second look
			g.kl, err = e.loss("", g.units)
			tried += len(g.units[0])
		} else {
			g.kl, err = e.loss(g.name(), g.units)
			ranked = append(ranked, g)
		}
		if err != nil {
			return tried, err
		}
	}
	sort.SliceStable(ranked, func(i, j int) bool { return ranked[i].kl > ranked[j].kl })
	for i, g := range ranked {
		if i > 0 && len(g.units) > e.left || e.spent() {
			break
		}
		n, err := e.search(g.units)
		tried += n
		if err != nil {
			return tried, err
		}
	}
	return tried, nil
}

// split cuts tensors into at most n groups of neighbouring blocks, all of one width but the last;
// those outside the blocks are the first.
func split(all []unit, n int) []*group {
	byBlock := map[int]*group{}
	var blocks []int
	for _, u := range all {
		b := u.block()
		if byBlock[b] == nil {
			byBlock[b] = &group{first: b, last: b}
			blocks = append(blocks, b)
		}
		byBlock[b].units = append(byBlock[b].units, u)
	}
	slices.Sort(blocks)
	var groups []*group
	if len(blocks) > 0 && blocks[0] < 0 {
		groups, blocks = append(groups, byBlock[-1]), blocks[1:]
	}
	if n -= len(groups); n < 1 || len(blocks) == 0 {
		return groups
	}
	for part := range slices.Chunk(blocks, (len(blocks)+n-1)/n) {
		g := &group{first: part[0], last: part[len(part)-1]}
		for _, b := range part {
			g.units = append(g.units, byBlock[b].units...)
		}
		groups = append(groups, g)
	}
	return groups
}
