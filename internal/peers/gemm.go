package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
)

// product is one library that multiplies matrices: seconds of one product of n by n matrices.
type product func(bits, n, threads int) (float64, error)

// gemm compares pare's products with OpenBLAS on the kernels that are fastest here, and with what the
// machine can do at most; the libraries of Python are shown once.
func (b *bench) gemm() (rows []Row) {
	blas, whose, end, why := b.bestBLAS()
	defer end()
	if why == nil {
		rows = append(rows, Row{Name: "the peer is " + whose})
	}
	peaks := map[[2]int]float64{} // by bits and threads
	for _, key := range [][2]int{{32, 1}, {32, 2}, {64, 1}, {64, 2}} {
		for range 10 { // one that was disturbed would flatter what is compared with it
			peak, err := b.limits.number("peak f%d %d", key[0], key[1])
			if err != nil {
				return append(rows, failed("peak", err))
			}
			peaks[key] = max(peaks[key], peak)
		}
	}
	for _, c := range []struct {
		bits, n, threads int
	}{
		{32, 1024, 1},
		{32, 2048, 1},
		{32, 4096, 1},
		{32, 1024, 2},
		{32, 2048, 2},
		{32, 4096, 2},
		{64, 1024, 1},
		{64, 2048, 1},
		{64, 2048, 2},
	} {
		if c.threads > b.threads {
			continue
		}
		rows = append(rows, b.products(c.bits, c.n, c.threads, blas, peaks, why)...)
	}
	for _, t := range []struct {
		kind string
		tool tool
	}{{"numpy", b.tools.NumPy}, {"onnxruntime", b.tools.ONNXRuntime}, {"torch", b.tools.Torch}} {
		rows = append(rows, b.python(t.kind, t.tool))
	}
	return rows
}

// products compares one size. The peak is the highest that any round so far has shown, for whatever
// else runs on the machine can only lower it.
func (b *bench) products(bits, n, threads int, blas product, peaks map[[2]int]float64, why error) []Row {
	key := [2]int{bits, threads}
	name := fmt.Sprintf("f%d %d, %d thread", bits, n, threads)
	if threads > 1 {
		name += "s"
	}
	b.log("%s", name)
	flop := 2 * float64(n) * float64(n) * float64(n)
	mine := newProduct(b.ctx, bits, n, threads)
	var peer func() (float64, error)
	if blas != nil {
		peer = func() (float64, error) { return blas(bits, n, threads) }
	}
	own, others, _, err := b.inTurns(0, b.rounds, func() (float64, error) {
		peak, err := b.limits.number("peak f%d %d", bits, threads)
		if err != nil {
			return 0, err
		}
		peaks[key] = max(peaks[key], peak)
		return mine()
	}, peer)
	if err != nil {
		return []Row{failed(name, err)}
	}
	speed := perSecond(own, flop)
	row := Row{Name: name, Unit: "GFLOP/s", Why: because(why)}.compare(scaled(speed, 1e-9), scaled(perSecond(others, flop), 1e-9), true)
	share := Row{Name: name + ": of peak", Unit: "%"}.compare(scaled(speed, 100/peaks[key]), scaled(perSecond(others, flop), 100/peaks[key]), true)
	share.Ratio = nil
	share.Note = fmt.Sprintf("the peak is %s GFLOP/s", figure(peaks[key]*1e-9))
	if bits == 32 { // double precision has no bar
		row, share = row.bar(1, 1), share.above(85, 95)
	}
	return []Row{row, share}
}

// newProduct is pare's own, with the kernels it picks here.
func newProduct(ctx context.Context, bits, n, threads int) func() (float64, error) {
	if bits == 64 {
		return repeated(multiply[float64](ctx, n, threads))
	}
	return repeated(multiply[float32](ctx, n, threads))
}

func multiply[T float32 | float64](ctx context.Context, n, threads int) func() error {
	k := kernels.For(cpu.Best())
	a, b, dst := random[T](n, 1), random[T](n, 2), random[T](n, 3)
	return func() error { return kernels.Gemm(ctx, k, threads, kernels.NN, dst, a, b, false) }
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
				best = func(bits, n, threads int) (float64, error) { return c.number("gemm f%d %d %d", bits, n, threads) }
			}
		}
	}
	return best, whose, end, why
}

// python measures a library of Python at one size.
func (b *bench) python(kind string, t tool) Row {
	const bits, n = 32, 2048
	name := fmt.Sprintf("f%d %d, %d threads, %s", bits, n, b.threads, kind)
	if t.Why != "" {
		return Row{Name: name, Why: t.Why}
	}
	b.log("%s", name)
	c, err := start(b.ctx, nil, t.Python, filepath.Join(scripts, "gemm.py"), kind, fmt.Sprint(b.threads))
	if err != nil {
		return failed(name, err)
	}
	defer c.close()
	peer := func() (float64, error) { return c.number("gemm f%d %d %d", bits, n, b.threads) }
	if _, err := peer(); err != nil {
		return failed(name, err)
	}
	own, others, _, err := b.inTurns(0, b.rounds, newProduct(b.ctx, bits, n, b.threads), peer)
	if err != nil {
		return failed(name, err)
	}
	flop := 2 * float64(n*n) * n * 1e-9
	return Row{Name: name, Unit: "GFLOP/s", Whose: "(" + t.Version + ")"}.compare(perSecond(own, flop), perSecond(others, flop), true)
}
