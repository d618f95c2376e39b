package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/internal/storage"
)

// growth measures how figures grow: the time of a token with the context, and the time and memory of
// quantizing with the size of the model.
func (b *bench) growth() []Row {
	rows, err := b.growthOfContext()
	if err != nil {
		rows = []Row{failed("token against context", err)}
	}
	return append(rows, b.growthOfSize()...)
}

// growthOfContext lets sessions with contexts of different lengths take turns on one model, a token each. Reading
// the weights takes ten times as long as reading the longest cache, and the machine drifts by more than that
// within seconds: what a token of context costs shows only between tokens that follow each other at once. So
// each turn gives a slope, each round the median of them, and the bandwidth that it is held against is that
// before and after the round.
func (b *bench) growthOfContext() ([]Row, error) {
	path, err := b.large("q4_0")
	if err != nil {
		return nil, err
	}
	mine := &ours{ctx: b.ctx, threads: b.threads}
	defer mine.close()
	if err := mine.load(path, roomOfSpeed); err != nil {
		return nil, err
	}
	release, err := b.alone()
	if err != nil {
		return nil, err
	}
	defer release()
	const longest, turns, perRound = 2000, 12, 4
	contexts := []int{0, longest / 2, longest}
	var sessions []*ours
	var at []float64
	for _, n := range contexts {
		e := &ours{ctx: b.ctx, threads: b.threads, r: mine.r, s: mine.r.NewSession()}
		defer e.s.Close()
		if err := e.at(n); err != nil {
			return nil, err
		}
		sessions, at = append(sessions, e), append(at, float64(n))
	}
	d := mine.r.Decoder()
	bytes := float64(cacheBytes * 2 * d.Layers * d.KVHeads * d.HeadDim)
	all := make([][]float64, len(contexts))
	var slopes, ratios, floors []float64
	before, err := b.read()
	if err != nil {
		return nil, err
	}
	for range perRound * b.rounds {
		var each []float64
		for turn := range turns {
			seconds := make([]float64, len(contexts))
			for i := range sessions {
				if turn%2 != 0 {
					i = len(sessions) - 1 - i
				}
				if err := sessions[i].at(contexts[i]); err != nil {
					return nil, err
				}
				x, err := sessions[i].decode(1)
				if err != nil {
					return nil, err
				}
				seconds[i] = x[0]
				all[i] = append(all[i], x[0])
			}
			each = append(each, slope(at, seconds))
		}
		after, err := b.read()
		if err != nil {
			return nil, err
		}
		median, floor := quantile(each, .5), bytes/((before+after)/2)
		slopes, floors, ratios = append(slopes, median), append(floors, floor), append(ratios, median/floor)
		before = after
	}
	var rows []Row
	for i, n := range contexts {
		rows = append(rows, Row{Name: fmt.Sprintf("Q4_0 1.1 B, token after %d", n), Unit: "ms", Pare: spreadOf(scaled(all[i], 1e3))})
	}
	return append(rows, Row{
		Name: "slope against reading the cache", Unit: "×", Pare: spreadOf(ratios),
		Note: fmt.Sprintf("%.0f ns a token of context, whose %.0f kB memory gives in %.0f ns", quantile(slopes, .5)*1e9, bytes*1e-3, quantile(floors, .5)*1e9),
	}.below(1.3, 1.1)), nil
}

// growthOfSize quantizes models of different sizes. Time is judged by the line through all of them, which has
// what a process costs whatever it reads in it: the largest must not lie far above. Memory is that of the
// largest beside the second.
func (b *bench) growthOfSize() (rows []Row) {
	for _, typ := range []string{"q8_0", "q4_k_m"} {
		var memory []*Spread
		var bytes, seconds []float64
		for i, shape := range growthShapes(b.full) {
			row, size, m, err := b.sized(typ, i, func(path string) (string, error) {
				return b.synthetic(path, shape, storage.F16)
			})
			if err != nil {
				rows = append(rows, failed(fmt.Sprintf("%s, size %d", typ, i), err))
				continue
			}
			rows = append(rows, row)
			memory, bytes, seconds = append(memory, m), append(bytes, size), append(seconds, size/(row.Pare.Median*1e9))
		}
		if n := len(bytes); n > 2 { // two points always lie on a line
			rows = append(rows, linear(typ, bytes, seconds),
				Row{Name: typ + ": peak memory, largest against the second", Unit: "×", Pare: exactly(memory[n-1].Median / memory[1].Median)}.below(1.5, 1.2))
		}
	}
	return rows
}

// linear judges the time of the largest by the line through all sizes.
func linear(typ string, bytes, seconds []float64) Row {
	fixed, each := line(bytes, seconds)
	last := len(bytes) - 1
	return Row{
		Name: typ + ": time of the largest, against fixed and linear parts", Unit: "×", Pare: exactly(seconds[last] / (fixed + each*bytes[last])),
		Note: fmt.Sprintf("%s s and %s s/GB fit all sizes best", figure(fixed), figure(each*1e9)),
	}.below(1.3, 1.1)
}

// sized quantizes one model several times.
func (b *bench) sized(typ string, i int, write func(name string) (string, error)) (row Row, size float64, memory *Spread, err error) {
	path, err := write(fmt.Sprintf("growth-%d", i))
	if err != nil {
		return row, 0, nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return row, 0, nil, err
	}
	size = float64(st.Size())
	b.log("%s from %.0f MB", typ, size*1e-6)
	folder, err := os.MkdirTemp(b.cache, "out-*")
	if err != nil {
		return row, 0, nil, err
	}
	defer os.RemoveAll(folder)
	if err := warm(path); err != nil {
		return row, 0, nil, err
	}
	out := filepath.Join(folder, "out.gguf")
	var rates, peaks []float64
	release, err := b.alone()
	if err != nil {
		return row, 0, nil, err
	}
	defer release()
	for range b.rounds {
		seconds, peak, err := timed(b.pareQuantize(path, out, typ))
		if err != nil {
			return row, 0, nil, err
		}
		rates, peaks = append(rates, size/seconds*1e-9), append(peaks, peak*1e-6)
	}
	memory = spreadOf(peaks)
	row = Row{
		Name: fmt.Sprintf("%s from %.0f MB", typ, size*1e-6), Unit: "GB/s", Pare: spreadOf(rates),
		Note: fmt.Sprintf("peak memory %s MB", memory),
	}
	return row, size, memory, nil
}
