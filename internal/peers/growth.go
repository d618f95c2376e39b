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

// growthOfContext goes from a long context to short ones, so that the text is read once.
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
	const longest, step, tokens = 2000, 250, 24
	if _, err := mine.prefill(longest); err != nil {
		return nil, err
	}
	var contexts, seconds []float64
	for at := longest; at >= 0; at -= step {
		if _, err := b.read(); err != nil {
			return nil, err
		}
		from := max(0, at-tokens)
		if err := mine.at(from); err != nil {
			return nil, err
		}
		x, err := mine.decode(tokens)
		if err != nil {
			return nil, err
		}
		for i, s := range x {
			contexts, seconds = append(contexts, float64(from+i)), append(seconds, s)
		}
	}
	d := mine.r.Decoder()
	numbers := 2 * d.Layers * d.KVHeads * d.HeadDim
	bytes := float64(cacheBytes * numbers)
	floor := bytes / quantile(b.reads, .5)
	each := slope(contexts, seconds)
	return []Row{
		{Name: "Q4_0 1.1 B, token after 0", Unit: "ms", Pare: spreadOf(scaled(near(contexts, seconds, 0, step/2), 1e3))},
		{Name: fmt.Sprintf("Q4_0 1.1 B, token after %d", longest), Unit: "ms", Pare: spreadOf(scaled(near(contexts, seconds, longest, step/2), 1e3))},
		Row{
			Name: "slope against reading the cache", Unit: "×", Pare: exactly(each / floor),
			Note: fmt.Sprintf("%.0f ns a token of context, whose %.0f kB memory gives in %.0f ns", each*1e9, bytes*1e-3, floor*1e9),
		}.below(1.3, 1.1),
	}, nil
}

// near picks the values whose key lies within a distance.
func near(keys, values []float64, key, within float64) (out []float64) {
	for i, k := range keys {
		if k >= key-within && k <= key+within {
			out = append(out, values[i])
		}
	}
	return out
}

// growthOfSize quantizes models of different sizes; what is judged is the largest beside the second.
func (b *bench) growthOfSize() (rows []Row) {
	for _, typ := range []string{"q8_0", "q4_k_m"} {
		var perByte, memory []*Spread
		for i, shape := range growthShapes(b.full) {
			row, m, err := b.sized(typ, i, func(path string) (string, error) {
				return b.synthetic(path, shape, storage.F16)
			})
			if err != nil {
				rows = append(rows, failed(fmt.Sprintf("%s, size %d", typ, i), err))
				continue
			}
			rows = append(rows, row)
			perByte, memory = append(perByte, row.Pare), append(memory, m)
		}
		if n := len(perByte); n > 1 {
			last, before := perByte[n-1].Median, perByte[1].Median
			rows = append(rows, Row{Name: typ + ": time a byte, largest against 80 MB", Unit: "×", Pare: exactly(before / last)}.below(1.3, 1.1),
				Row{Name: typ + ": peak memory, largest against 80 MB", Unit: "×", Pare: exactly(memory[n-1].Median / memory[1].Median)}.below(1.5, 1.2))
		}
	}
	return rows
}

// sized quantizes one model several times.
func (b *bench) sized(typ string, i int, write func(name string) (string, error)) (row Row, memory *Spread, err error) {
	path, err := write(fmt.Sprintf("growth-%d", i))
	if err != nil {
		return row, nil, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return row, nil, err
	}
	b.log("%s from %.0f MB", typ, float64(st.Size())*1e-6)
	folder, err := os.MkdirTemp(b.cache, "out-*")
	if err != nil {
		return row, nil, err
	}
	defer os.RemoveAll(folder)
	if err := warm(path); err != nil {
		return row, nil, err
	}
	out := filepath.Join(folder, "out.gguf")
	var rates, peaks []float64
	release, err := b.alone()
	if err != nil {
		return row, nil, err
	}
	defer release()
	for range b.rounds {
		seconds, peak, err := timed(b.pareQuantize(path, out, typ))
		if err != nil {
			return row, nil, err
		}
		rates, peaks = append(rates, float64(st.Size())/seconds*1e-9), append(peaks, peak*1e-6)
	}
	memory = spreadOf(peaks)
	row = Row{
		Name: fmt.Sprintf("%s from %.0f MB", typ, float64(st.Size())*1e-6), Unit: "GB/s", Pare: spreadOf(rates),
		Note: fmt.Sprintf("peak memory %s MB", memory),
	}
	return row, memory, nil
}
