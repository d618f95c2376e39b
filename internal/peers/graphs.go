package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/pare-dev/pare/internal/par"
)

// graphTurn is how long each side runs a network before the other has its turn.
const graphTurn = 100 * time.Millisecond

// graphs measures networks in float and in 8 bits beside ONNX Runtime: the time of a run at batch 1, and from
// opening the file to the first output.
func (b *bench) graphs() (rows []Row) {
	pool := par.NewPool(b.threads)
	defer pool.Close()
	for _, n := range networks {
		b.log("%s", n.name)
		more, err := b.graph(n, pool)
		if err != nil {
			more = append(more, failed(n.name, err))
		}
		rows = append(rows, more...)
	}
	return rows
}

func (b *bench) graph(n network, pool *par.Pool) (rows []Row, err error) {
	f, err := b.feed(n)
	if err != nil {
		return nil, err
	}
	peer, why := b.startORT()
	defer peer.close()
	row, err := b.graphTimes(f, n.name+", float", f.path, f.path, peer, why, pool)
	if err != nil {
		return nil, err
	}
	rows = append(rows, n.sentences(row).bar(1, 1.3))
	if row, err = b.graphFirst(f, peer, why, pool); err != nil {
		return rows, err
	}
	rows = append(rows, row.bar(2, 3))

	mine, theirs, err := f.made()
	if err != nil { // quantized files are what the other part leaves, or what is made now
		if err := b.quantizeBoth(f, false); err != nil {
			return rows, err
		}
		if mine, theirs, err = f.made(); err != nil {
			return rows, err
		}
	}
	if row, err = b.graphTimes(f, n.name+", int8", mine, theirs, peer, why, pool); err != nil {
		return rows, err
	}
	rows = append(rows, n.sentences(row).bar(1.5, 2))
	row, err = b.graphOwn(f, mine, pool)
	if err != nil {
		return rows, err
	}
	required := 1.0
	if n.dominated {
		required = 1.5
	}
	return append(rows, row.bar(required, 1.5)), nil
}

// sentences adds to the time of a run of an encoder how many of its sentences a second has.
func (n network) sentences(row Row) Row {
	if n.fetched == nil || row.Pare == nil {
		return row
	}
	row.Note = fmt.Sprintf("%.0f sentences of %d tokens a second", 1e3/row.Pare.Median, sentenceTokens)
	if row.Peer != nil {
		row.Note += fmt.Sprintf(", the peer's %.0f", 1e3/row.Peer.Median)
	}
	return row
}

func (b *bench) startORT() (*client, error) {
	t := b.tools.ONNXRuntime
	if t.Why != "" {
		return nil, fmt.Errorf("ONNX Runtime is not there: %s", t.Why)
	}
	return start(b.ctx, nil, t.Python, filepath.Join(scripts, "graphs.py"), "serve", fmt.Sprint(b.threads))
}

// graphTimes compares a file in pare with a file in the peer.
func (b *bench) graphTimes(f *fed, name, mine, theirs string, c *client, why error, pool *par.Pool) (Row, error) {
	r, err := f.open(b.ctx, mine, pool)
	if err != nil {
		return Row{}, err
	}
	defer r.close()
	var peer func() (float64, error)
	if why == nil && theirs != "" {
		if _, err := c.ask("open %s\t%s", theirs, f.folder); err != nil {
			return Row{}, err
		}
		peer = func() (float64, error) { return c.number("run %g", graphTurn.Seconds()) }
	} else if why == nil {
		why = fmt.Errorf("its quantizer makes no file of this network that it can run")
	}
	debug.FreeOSMemory() // what loading left is not collected while something is measured
	own, others, _, err := b.inTurns(1, b.rounds, func() (float64, error) { return b.median(r) }, peer)
	if err != nil {
		return Row{}, err
	}
	return Row{Name: name, Unit: "ms", Why: because(why)}.compare(scaled(own, 1e3), scaled(others, 1e3), false), nil
}

// median runs for a turn and gives the median seconds of a run.
func (b *bench) median(r *program) (float64, error) {
	var times []float64
	begin := time.Now()
	for last := begin; len(times) == 0 || last.Sub(begin) < graphTurn; {
		if err := r.run(b.ctx); err != nil {
			return 0, err
		}
		now := time.Now()
		times = append(times, now.Sub(last).Seconds())
		last = now
	}
	return quantile(times, .5), nil
}

// graphOwn compares the integers with pare's own floats.
func (b *bench) graphOwn(f *fed, made string, pool *par.Pool) (Row, error) {
	x, err := f.open(b.ctx, made, pool)
	if err != nil {
		return Row{}, err
	}
	defer x.close()
	y, err := f.open(b.ctx, f.path, pool)
	if err != nil {
		return Row{}, err
	}
	defer y.close()
	debug.FreeOSMemory()
	own, others, _, err := b.inTurns(1, b.rounds, func() (float64, error) { return b.median(x) }, func() (float64, error) { return b.median(y) })
	if err != nil {
		return Row{}, err
	}
	return Row{Name: f.name + ", int8 against its own float", Unit: "ms", Whose: "(pare, float)"}.compare(scaled(own, 1e3), scaled(others, 1e3), false), nil
}

// graphFirst compares the time from nothing to the first output, in processes that run already: what importing
// Python packages takes is not the peer's.
func (b *bench) graphFirst(f *fed, c *client, why error, pool *par.Pool) (Row, error) {
	if err := warm(f.path); err != nil {
		return Row{}, err
	}
	pare := func() (float64, error) {
		start := time.Now()
		r, err := f.open(b.ctx, f.path, pool)
		if err != nil {
			return 0, err
		}
		defer r.close()
		err = r.run(b.ctx)
		return time.Since(start).Seconds(), err
	}
	var peer func() (float64, error)
	if why == nil {
		peer = func() (float64, error) { return c.number("first %s\t%s", f.path, f.folder) }
	}
	own, others, _, err := b.inTurns(2, 2*b.rounds, pare, peer)
	if err != nil {
		return Row{}, err
	}
	return Row{Name: f.name + ", load and first output", Unit: "ms", Why: because(why)}.compare(scaled(own, 1e3), scaled(others, 1e3), false), nil
}

func (f *fed) files() (mine, theirs string) {
	return filepath.Join(f.folder, "pare-int8.onnx"), filepath.Join(f.folder, "ort-int8.onnx")
}

// made finds the quantized files; the peer's is "" when its quantizer failed.
func (f *fed) made() (mine, theirs string, err error) {
	mine, theirs = f.files()
	if _, err := os.Stat(mine); err != nil {
		return "", "", err
	}
	if _, err := os.Stat(theirs); err != nil {
		theirs = ""
	}
	return mine, theirs, nil
}

func (b *bench) pareCalibrate(f *fed) *exec.Cmd {
	mine, _ := f.files()
	args := append([]string{"quantize", f.path, "--type", "uint8", "-o", mine, "--force", "-q", "-j", fmt.Sprint(b.threads)}, f.calibration()...)
	return exec.CommandContext(b.ctx, b.pare, args...)
}

func (b *bench) ortCalibrate(f *fed) *exec.Cmd {
	_, theirs := f.files()
	return exec.CommandContext(b.ctx, b.tools.ONNXRuntime.Python, filepath.Join(scripts, "graphs.py"), "quantize", f.path, f.folder, theirs)
}

// quantizeBoth makes both files once; that the peer fails is no error.
func (b *bench) quantizeBoth(f *fed, again bool) error {
	if _, _, err := f.made(); err == nil && !again {
		return nil
	}
	if b.tools.ONNXRuntime.Why == "" {
		if err := spoken(b.ortCalibrate(f)); err != nil {
			b.log("%s: ONNX Runtime: %v", f.name, err)
		}
	}
	return spoken(b.pareCalibrate(f))
}

// calibrate measures quantizing with samples: both processes from start to exit.
func (b *bench) calibrate() (rows []Row) {
	for _, n := range networks {
		b.log("%s", n.name)
		f, err := b.feed(n)
		var more []Row
		if err == nil {
			more, err = b.calibrateOne(f)
		}
		if err != nil {
			more = []Row{failed(n.name, err)}
		}
		rows = append(rows, more...)
	}
	return rows
}

func (b *bench) calibrateOne(f *fed) ([]Row, error) {
	var memory, otherMemory, imports []float64
	var peer func() (float64, error)
	why := b.tools.ONNXRuntime.Why
	if why == "" {
		peer = func() (float64, error) {
			s, peak, err := timed(b.ortCalibrate(f))
			otherMemory = append(otherMemory, peak)
			return s, err
		}
		python := exec.CommandContext(b.ctx, b.tools.ONNXRuntime.Python, filepath.Join(scripts, "graphs.py"), "import")
		if s, _, err := timed(python); err == nil {
			imports = append(imports, s)
		}
	}
	own, others, _, err := b.inTurns(0, b.rounds, func() (float64, error) {
		s, peak, err := timed(b.pareCalibrate(f))
		memory = append(memory, peak)
		return s, err
	}, peer)
	if err != nil && len(others) == 0 && len(own) > 0 { // the peer refuses the model
		return []Row{{Name: f.name, Unit: "s", Pare: spreadOf(own), Why: err.Error()}}, b.ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("%s, %d samples", f.name, len(f.samples))
	row := Row{Name: name, Unit: "s", Why: why}.compare(own, others, false).bar(5, 10)
	if len(imports) > 0 {
		row.Note = fmt.Sprintf("%.1f s of the peer's time are its imports", imports[0])
	}
	peaks := Row{Name: name + ": peak memory", Unit: "MB"}.compare(scaled(memory, 1e-6), scaled(otherMemory, 1e-6), false).bar(4, 6)
	return []Row{row, peaks}, nil
}
