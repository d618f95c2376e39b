package main

import (
	"fmt"
	"math"
	"strings"
)

// small measures what a token costs beside reading the weights: barriers, norms, attention, the call
// itself. The weights of this model stay in caches, so the bandwidth is that of reading as many bytes
// again and again, not that of main memory.
func (b *bench) small() (rows []Row) {
	mine, other, why := b.pairOf()
	defer closeAll(mine, other)
	for _, typ := range []string{"q8_0", "q4_0"} {
		row, err := b.smallOf(typ, mine, other, why)
		if err != nil {
			row = []Row{failed(strings.ToUpper(typ), err)}
		}
		rows = append(rows, row...)
	}
	return rows
}

func (b *bench) smallOf(typ string, mine *ours, other engine, why error) ([]Row, error) {
	path, err := b.small6M(typ)
	if err != nil {
		return nil, err
	}
	bytes, err := readPerToken(path)
	if err != nil {
		return nil, err
	}
	const context, tokens = 32, 256
	for _, e := range []engine{mine, other} {
		if e != nil {
			if err := e.load(path, 512); err != nil {
				return nil, err
			}
		}
	}
	var rates []float64
	step := func(e engine) (float64, error) {
		if err := e.at(context); err != nil {
			return 0, err
		}
		seconds, err := e.decode(tokens)
		return quantile(seconds, .5), err
	}
	own, others, _, err := b.inTurns(1, 2*b.rounds, func() (float64, error) {
		rate, err := b.limits.number("read %d %d", bytes, b.threads)
		if err != nil {
			return 0, err
		}
		rates = append(rates, rate)
		return step(mine)
	}, onPeer(other, step))
	if err != nil {
		return nil, err
	}
	rates = rates[1:]                           // of the rounds that count
	reading := perSecond(rates, float64(bytes)) // seconds, in each round
	beyond := func(seconds []float64) []float64 {
		return each(seconds, reading, func(s, read float64) float64 { return math.Max(0, s-read) * 1e6 })
	}
	name := strings.ToUpper(typ)
	total := Row{Name: name + ", median token", Unit: "µs", Why: because(why)}.compare(scaled(own, 1e6), scaled(others, 1e6), false)
	over := Row{Name: name + ", overhead per token", Unit: "µs"}.compare(beyond(own), beyond(others), false).below(150, 80)
	over.Ratio = nil // differences of differences say little
	over.Note = fmt.Sprintf("reading %.1f MB takes %.0f µs", float64(bytes)*1e-6, quantile(reading, .5)*1e6)
	return []Row{total, over}, nil
}
