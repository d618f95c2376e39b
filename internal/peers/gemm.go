package main

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"time"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
)

// product is one library that multiplies matrices: seconds of one product of n by n matrices of a type.
type product func(typ string, n, threads int) (float64, error)

// gemm compares pare's products with OpenBLAS on the kernels that are fastest here, and with what the
// machine can do at most; the libraries of Python are shown once.
func (b *bench) gemm() (rows []Row) {
	blas, whose, end, why := b.bestBLAS()
	defer end()
	if why == nil {
		rows = append(rows, Row{Name: "the peer is " + whose})
	}
	for _, c := range []struct {
		typ        string
		n, threads int
	}{
		{"f32", 1024, 1},
		{"f32", 2048, 1},
		{"f32", 4096, 1},
		{"f32", 1024, 2},
		{"f32", 2048, 2},
		{"f32", 4096, 2},
		{"f64", 1024, 1},
		{"f64", 2048, 1},
		{"f64", 2048, 2},
	} {
		if c.threads <= b.threads {
			rows = append(rows, b.products(c.typ, c.n, c.threads, blas, because(why), "")...)
		}
	}
	for _, t := range []struct {
		kind string
		tool tool
	}{{"numpy", b.tools.NumPy}, {"onnxruntime", b.tools.ONNXRuntime}, {"torch", b.tools.Torch}} {
		rows = append(rows, b.others(t.kind, t.tool))
	}
	return rows
}

// gemmBF16 compares products of bfloat16 with PyTorch, and with what the machine can do at most.
func (b *bench) gemmBF16() (rows []Row) {
	for threads := 1; threads <= min(2, b.threads); threads++ {
		torch, version, end := b.python("torch", b.tools.Torch, threads)
		for _, n := range []int{1024, 2048, 4096} {
			rows = append(rows, b.products("bf16", n, threads, torch, b.tools.Torch.Why, version)...)
		}
		end()
	}
	return rows
}

// products compares one size. What the machine can do is measured in every round, before and after:
// neighbours take from it, for seconds at a time, up to a third.
func (b *bench) products(typ string, n, threads int, other product, why, version string) []Row {
	name := fmt.Sprintf("%s %d, %d thread", typ, n, threads)
	if threads > 1 {
		name += "s"
	}
	b.log("%s", name)
	flop := 2 * float64(n) * float64(n) * float64(n)
	mine := newProduct(b.ctx, typ, n, threads)
	var peer func() (float64, error)
	if other != nil {
		peer = func() (float64, error) { return other(typ, n, threads) }
	}
	limits := []string{typ} // what may be the limit
	if typ == "bf16" {
		limits = append(limits, "f32") // of numbers that were widened
	}
	peaks := map[string][]float64{}
	beside := func() (float64, error) {
		var seconds float64
		most := map[string]float64{}
		for turn := range 2 {
			for _, of := range limits {
				v, err := b.limits.number("peak %s %d", of, threads)
				if err != nil {
					return 0, err
				}
				most[of] = max(most[of], v)
			}
			if turn > 0 {
				break
			}
			var err error
			if seconds, err = mine(); err != nil {
				return 0, err
			}
		}
		for of, v := range most {
			peaks[of] = append(peaks[of], v)
		}
		return seconds, nil
	}
	own, others, _, err := b.inTurns(0, b.rounds, beside, peer)
	if err != nil {
		return []Row{failed(name, err)}
	}
	speed, theirs := perSecond(own, flop), perSecond(others, flop)
	row := Row{Name: name, Unit: "GFLOP/s", Why: why, Whose: version}.compare(scaled(speed, 1e-9), scaled(theirs, 1e-9), true)
	if typ == "f32" {
		row = row.bar(1, 1)
	}
	rows := []Row{row}
	attainable := 0.0 // by the best of the ways to multiply these numbers
	for _, of := range limits {
		attainable = max(attainable, quantile(peaks[of], .5))
	}
	for _, of := range limits {
		peak := quantile(peaks[of], .5)
		if peak == 0 { // there are no instructions for these numbers
			continue
		}
		share := Row{Name: name + ": of peak", Unit: "%", Note: fmt.Sprintf("the peak is %s GFLOP/s", figure(peak*1e-9))}
		if typ == "bf16" {
			share.Note += " of " + map[string]string{"bf16": "instructions for bfloat16", "f32": "widened numbers"}[of]
		}
		share = share.compare(percent(speed, peaks[of]), percent(theirs, peaks[of]), true)
		share.Ratio = nil
		if typ != "f64" && peak == attainable { // double precision has no bar
			share = share.above(85, 95)
		}
		rows = append(rows, share)
	}
	return rows
}

// percent is each figure as a share of the limit measured in its round.
func percent(x, of []float64) (out []float64) {
	for i, v := range x {
		out = append(out, 100*v/of[i])
	}
	return out
}

// newProduct is pare's own, with the kernels it picks here.
func newProduct(ctx context.Context, typ string, n, threads int) func() (float64, error) {
	k := kernels.For(cpu.Best())
	switch typ {
	case "f64":
		a, b, dst := random[float64](n, 1), random[float64](n, 2), random[float64](n, 3)
		return repeated(func() error { return kernels.Gemm(ctx, k, threads, kernels.NN, dst, a, b, false) })
	case "bf16":
		a, b, dst := halves(random[float32](n, 1)), halves(random[float32](n, 2)), random[float32](n, 3)
		return repeated(func() error { return kernels.GemmBF16(ctx, k, threads, kernels.NN, dst, a, b, false) })
	}
	a, b, dst := random[float32](n, 1), random[float32](n, 2), random[float32](n, 3)
	return repeated(func() error { return kernels.Gemm(ctx, k, threads, kernels.NN, dst, a, b, false) })
}

// halves is a matrix in bfloat16, cut off.
func halves(m kernels.Matrix) kernels.MatrixBF16 {
	out := kernels.View(make([]uint16, len(m.Data)), m.Rows, m.Cols)
	for i, v := range m.Data {
		out.Data[i] = uint16(math.Float32bits(v) >> 16)
	}
	return out
}

// repeated gives the seconds of one call, the mean over 0.2 s; as with the peers, a call before warms up.
func repeated(whole func() error) func() (float64, error) {
	return func() (float64, error) {
		if err := whole(); err != nil {
			return 0, err
		}
		start, reps := time.Now(), 0
		for reps == 0 || time.Since(start) < 200*time.Millisecond {
			if err := whole(); err != nil {
				return 0, err
			}
			reps++
		}
		return time.Since(start).Seconds() / float64(reps), nil
	}
}

// random is a matrix of numbers in [-1,1).
func random[T float32 | float64](n int, seed uint32) kernels.Dense[T] {
	data := make([]T, n*n)
	for i := range data {
		seed = seed*1664525 + 1013904223 // Numerical Recipes
		data[i] = T(seed>>8)/(1<<23) - 1
	}
	return kernels.View(data, n, n)
}

// bestBLAS tries every OpenBLAS with every set of kernels that suits wide vectors, and keeps the fastest:
// what a library chooses by itself is not always its best.
func (b *bench) bestBLAS() (best product, whose string, end func(), why error) {
	why = fmt.Errorf("no OpenBLAS: %s; %s", b.tools.OpenBLAS.Why, b.tools.Debian.Why)
	var running []*client
	end = func() {
		for _, c := range running {
			c.close()
		}
	}
	release, err := b.alone()
	if err != nil {
		return nil, "", end, err
	}
	defer release()
	fastest := 0.0
	for _, t := range []tool{b.tools.OpenBLAS, b.tools.Debian} {
		if t.Why != "" || b.tools.Machine.Why != "" {
			continue
		}
		for _, core := range []string{"", "SkylakeX", "Cooperlake", "Sapphirerapids", "Haswell", "Zen"} {
			var env []string
			if core != "" {
				env = []string{"OPENBLAS_CORETYPE=" + core}
			}
			c, err := start(b.ctx, env, b.tools.Machine.Probe, t.Library, t.Prefix)
			if err != nil {
				why = err
				continue
			}
			running = append(running, c)
			var seconds []float64
			about, err := c.ask("about")
			for range 3 {
				if err == nil {
					var s float64
					s, err = c.number("gemm f32 2048 1")
					seconds = append(seconds, s)
				}
			}
			if err != nil { // a core that the library does not have, or that this machine cannot run
				continue
			}
			if s := quantile(seconds, .5); fastest == 0 || s < fastest {
				fastest, why, whose = s, nil, about
				best = func(typ string, n, threads int) (float64, error) { return c.number("gemm %s %d %d", typ, n, threads) }
			}
		}
	}
	return best, whose, end, why
}

// python starts a library of Python; nil where there is none.
func (b *bench) python(kind string, t tool, threads int) (p product, version string, end func()) {
	if t.Why != "" {
		return nil, "", func() {}
	}
	c, err := start(b.ctx, nil, t.Python, filepath.Join(scripts, "gemm.py"), kind, fmt.Sprint(threads))
	if err != nil {
		return func(string, int, int) (float64, error) { return 0, err }, "", func() {}
	}
	return func(typ string, n, threads int) (float64, error) { return c.number("gemm %s %d %d", typ, n, threads) }, "(" + t.Version + ")", c.close
}

// others measures a library of Python at one size.
func (b *bench) others(kind string, t tool) Row {
	const typ, n = "f32", 2048
	name := fmt.Sprintf("%s %d, %d threads, %s", typ, n, b.threads, kind)
	if t.Why != "" {
		return Row{Name: name, Why: t.Why}
	}
	b.log("%s", name)
	p, version, end := b.python(kind, t, b.threads)
	defer end()
	peer := func() (float64, error) { return p(typ, n, b.threads) }
	if _, err := peer(); err != nil {
		return failed(name, err)
	}
	own, others, _, err := b.inTurns(0, b.rounds, newProduct(b.ctx, typ, n, b.threads), peer)
	if err != nil {
		return failed(name, err)
	}
	flop := 2 * float64(n*n) * n * 1e-9
	return Row{Name: name, Unit: "GFLOP/s", Whose: version}.compare(perSecond(own, flop), perSecond(others, flop), true)
}
