package main

import (
	"fmt"
	"strings"
)

// The bars of generation: llama.cpp's speed where memory is slow and bounds both, more where it is not.
const (
	slowMemory   = 50e9 // bytes a second
	roomOfSpeed  = 2048 // context of both sides
	prefillBatch = 512
)

// pairOf opens both sides. A peer that is missing leaves its side nil and says why.
func (b *bench) pairOf() (mine *ours, other engine, why error) {
	mine = &ours{ctx: b.ctx, threads: b.threads}
	c, _, err := b.startLlama()
	if err != nil {
		return mine, nil, err
	}
	return mine, theirs{c}, nil
}

// closeAll ends the sides that there are.
func closeAll(mine *ours, other engine) {
	mine.close()
	if other != nil {
		other.close()
	}
}

// loadBoth loads a model on both sides.
func (b *bench) loadBoth(mine *ours, other engine, typ string) (path string, err error) {
	if path, err = b.large(typ); err != nil {
		return "", err
	}
	if err = mine.load(path, roomOfSpeed); err == nil && other != nil {
		err = other.load(path, roomOfSpeed)
	}
	return path, err
}

// onPeer binds a step to the other side, if there is one.
func onPeer(other engine, step func(engine) (float64, error)) func() (float64, error) {
	if other == nil {
		return nil
	}
	return func() (float64, error) { return step(other) }
}

func (b *bench) decode() (rows []Row) {
	mine, other, why := b.pairOf()
	defer closeAll(mine, other)
	for _, typ := range []string{"q8_0", "q4_0", "q4_k_m"} {
		path, err := b.loadBoth(mine, other, typ)
		if err != nil {
			rows = append(rows, failed(strings.ToUpper(typ), err))
			continue
		}
		bytes, err := readPerToken(path)
		if err != nil {
			rows = append(rows, failed(strings.ToUpper(typ), err))
			continue
		}
		for _, at := range []struct{ context, tokens int }{{32, 64}, {1024, 32}} {
			name := fmt.Sprintf("%s, %d tokens after %d", strings.ToUpper(typ), at.tokens, at.context)
			b.log("%s", name)
			rows = append(rows, b.decodeAfter(name, mine, other, why, at.context, at.tokens, bytes)...)
		}
	}
	return rows
}

// decodeAfter measures generation at one context, and how much of the bandwidth of memory it uses.
func (b *bench) decodeAfter(name string, mine *ours, other engine, why error, context, tokens int, bytes int64) []Row {
	step := func(e engine) (float64, error) {
		if err := e.at(context); err != nil {
			return 0, err
		}
		seconds, err := e.decode(tokens)
		return sum(seconds), err
	}
	own, others, reads, err := b.inTurns(1, b.rounds, func() (float64, error) { return step(mine) }, onPeer(other, step))
	if err != nil {
		return []Row{failed(name, err)}
	}
	weights, n := float64(bytes), float64(tokens)
	required := 1.3
	slow := quantile(reads, .5) < slowMemory
	if slow {
		required = 1
	}
	speed := Row{Name: name, Unit: "tok/s", Why: because(why)}.compare(perSecond(own, n), perSecond(others, n), true).bar(required, 1.6)
	share := Row{Name: name + ": weights read, of the bandwidth", Unit: "%"}
	percent := func(seconds []float64) []float64 {
		return each(seconds, reads, func(s, read float64) float64 { return 100 * weights * n / s / read })
	}
	share.Pare, share.Peer = spreadOf(percent(own)), spreadOf(percent(others))
	if slow {
		share = share.above(85, 100)
	} else {
		share.Note = "no bar where memory gives 50 GB/s or more"
	}
	return []Row{speed, share}
}

func because(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (b *bench) prefill() (rows []Row) {
	mine, other, why := b.pairOf()
	defer closeAll(mine, other)
	for _, t := range []struct {
		typ           string
		required, aim float64
	}{{"q8_0", 2, 4}, {"q4_0", 1.5, 2.5}, {"q4_k_m", 1.5, 2.5}, {"f16", 1.3, 2}, {"bf16", 1.3, 2}} {
		name := strings.ToUpper(t.typ)
		b.log("%s", name)
		if _, err := b.loadBoth(mine, other, t.typ); err != nil {
			rows = append(rows, failed(name, err))
			continue
		}
		step := func(e engine) (float64, error) { return e.prefill(prefillBatch) }
		own, others, _, err := b.inTurns(1, b.rounds, func() (float64, error) { return step(mine) }, onPeer(other, step))
		if err != nil {
			rows = append(rows, failed(name, err))
			continue
		}
		rows = append(rows, Row{Name: name, Unit: "tok/s", Why: because(why)}.
			compare(perSecond(own, prefillBatch), perSecond(others, prefillBatch), true).bar(t.required, t.aim))
	}
	return rows
}
