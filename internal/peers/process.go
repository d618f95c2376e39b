package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pare-dev/pare/internal/peers/synth"
	"github.com/pare-dev/pare/internal/storage"
)

// llamaQuantize is llama.cpp's own quantizer in a process of its own.
func (b *bench) llamaQuantize(source, path, typ string) (*exec.Cmd, error) {
	if why := b.tools.Llama.Why; why != "" {
		return nil, fmt.Errorf("llama.cpp is not there: %s", why)
	}
	ftype, ok := fileTypes[typ]
	if !ok {
		return nil, fmt.Errorf("llama.cpp's number of the type %s is not known", typ)
	}
	return exec.CommandContext(b.ctx, b.tools.Llama.Probe, b.tools.Llama.Library, "quantize", source, path, fmt.Sprint(ftype), fmt.Sprint(b.threads)), nil
}

func (b *bench) pareQuantize(source, path, typ string) *exec.Cmd {
	return exec.CommandContext(b.ctx, b.pare, "quantize", source, "--type", typ, "-o", path, "--force", "-q", "-j", fmt.Sprint(b.threads))
}

// timed runs a process from start to exit and gives its seconds and its peak memory in bytes, 0 where the
// system does not tell.
//
// The process is started by a small one in between (see measure): the system counts to a process what
// the one that started it had in memory, and this one has had whole models.
func timed(cmd *exec.Cmd) (seconds, peak float64, err error) {
	self, err := os.Executable()
	if err != nil {
		return 0, 0, err
	}
	var told bytes.Buffer
	cmd.Args = append([]string{self, measureVerb, cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.Stdout = self, &told
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // which it passes on
	if err := spoken(cmd); err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscan(told.String(), &seconds, &peak); err != nil {
		return 0, 0, fmt.Errorf("%s: %w: %q", filepath.Base(self), err, told.String())
	}
	return seconds, peak, nil
}

// measureVerb is the argument that makes this program the one in between.
const measureVerb = "measure"

// measure runs a command, whose output goes to standard error, and prints its seconds and its peak memory.
func measure(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // what the other end of timed was given
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return err
	}
	_, err := fmt.Println(time.Since(start).Seconds(), peakOf(cmd.ProcessState))
	return err
}

// warm reads files, so that the page cache holds them for both sides.
func warm(paths ...string) error {
	buf := make([]byte, 1<<20)
	for _, p := range paths {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		for n := 1; n > 0; {
			n, _ = f.Read(buf) // at the end, or where it cannot be read, the measurement will say so
		}
		if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) load() (rows []Row) {
	const prompt = "the cat sat"
	for _, typ := range []string{"q4_0", "q8_0"} {
		name := strings.ToUpper(typ)
		b.log("%s", name)
		path, err := b.large(typ)
		if err == nil {
			err = warm(path)
		}
		if err != nil {
			rows = append(rows, failed(name, err))
			continue
		}
		pare := func() (float64, error) {
			s, _, err := timed(exec.CommandContext(b.ctx, b.pare, "run", path, "-p", prompt, "-n", "1", "--temperature", "0", "-q", "-j", fmt.Sprint(b.threads)))
			return s, err
		}
		var peer func() (float64, error)
		why := b.tools.Llama.Why
		if why == "" {
			peer = func() (float64, error) {
				s, _, err := timed(exec.CommandContext(b.ctx, b.tools.Llama.Probe, b.tools.Llama.Library, "first", path, fmt.Sprint(b.threads), prompt))
				return s, err
			}
		}
		own, others, _, err := b.inTurns(1, 2*b.rounds, pare, peer)
		if err != nil {
			rows = append(rows, failed(name, err))
			continue
		}
		row := Row{Name: name, Unit: "s", Why: why}.compare(own, others, false)
		if typ == "q4_0" { // the bar: at most the peer's time, at best half of it
			row = row.bar(1, 2)
		}
		rows = append(rows, row)
	}
	return rows
}

func (b *bench) quantize() (rows []Row) {
	large, err := b.large(string(storage.F16))
	if err != nil {
		return []Row{failed("F16 model", err)}
	}
	some := large
	name := "1.1 B"
	if !b.full {
		if some, err = b.synthetic("llama-quarter", quarter(), storage.F16); err != nil {
			return []Row{failed("F16 model", err)}
		}
		name = fmt.Sprintf("%.2f B", float64(quarter().Params())/1e9)
	}
	for _, t := range []struct {
		typ, source, size string
		required, aim     float64
	}{
		{"q8_0", large, "1.1 B", 4, 6},
		{"q4_0", large, "1.1 B", 4, 6},
		{"q4_k_m", some, name, 8, 12},
		{"q6_k", some, name, 8, 12},
		{"q2_k", some, name, 8, 12},
		{"q3_k_m", some, name, 8, 12},
		{"q5_k_m", some, name, 8, 12},
	} {
		b.log("%s, %s", t.typ, t.size)
		if err := warm(t.source); err != nil {
			rows = append(rows, failed(t.typ, err))
			continue
		}
		rows = append(rows, b.quantizeTo(strings.ToUpper(t.typ)+", "+t.size, t.source, t.typ, t.required, t.aim)...)
	}
	return rows
}

// quantizeTo measures both quantizers: wall time of the process, peak memory, and whether pare's weights
// are as close to the source as the peer's.
func (b *bench) quantizeTo(name, source, typ string, required, aim float64) []Row {
	folder, err := os.MkdirTemp(b.cache, "out-*")
	if err != nil {
		return []Row{failed(name, err)}
	}
	defer os.RemoveAll(folder)
	mine, other := filepath.Join(folder, "pare.gguf"), filepath.Join(folder, "peer.gguf")
	var memory, otherMemory []float64
	// a file is gone before the other side runs, so that neither waits for the other's bytes to reach the disk
	run := func(cmd *exec.Cmd, path string, peaks *[]float64) (float64, error) {
		_ = os.Remove(path)
		s, peak, err := timed(cmd)
		*peaks = append(*peaks, peak)
		if err == nil {
			err = shelve(path)
		}
		return s, err
	}
	var peer func() (float64, error)
	why := b.tools.Llama.Why
	if why == "" {
		peer = func() (float64, error) {
			cmd, err := b.llamaQuantize(source, other, typ)
			if err != nil {
				return 0, err
			}
			return run(cmd, other, &otherMemory)
		}
	}
	own, others, _, err := b.inTurns(0, b.rounds, func() (float64, error) { return run(b.pareQuantize(source, mine, typ), mine, &memory) }, peer)
	if err != nil {
		return []Row{failed(name, err)}
	}
	rows := []Row{Row{Name: name, Unit: "s", Why: why}.compare(own, others, false).bar(required, aim)}
	peaks := Row{Name: name + ": peak memory", Unit: "MB"}.compare(scaled(memory, 1e-6), scaled(otherMemory, 1e-6), false)
	if typ == "q8_0" || typ == "q4_0" {
		peaks = peaks.below(300, 100)
	}
	rows = append(rows, peaks)
	if why == "" {
		rows = append(rows, b.fidelity(name, source, shelf(mine), shelf(other)))
	}
	return rows
}

// shelve keeps the last output for the comparison of weights, out of the way of the next.
func shelve(path string) error { return os.Rename(path, shelf(path)) }

func shelf(path string) string { return strings.TrimSuffix(path, ".gguf") + ".last.gguf" }

// fidelity compares both outputs with the source.
func (b *bench) fidelity(name, source, mine, other string) Row {
	name += ": rmse"
	f, err := compareFiles(b.ctx, b.threads, source, mine, other)
	if err != nil {
		return failed(name, err)
	}
	row := Row{Name: name}
	if f.same {
		row.Note = "the same bytes in every tensor"
		return row
	}
	row = row.compare([]float64{f.mine}, []float64{f.other}, false)
	row.Bar = &Bar{Value: f.mine, Below: true, Required: f.other, Aim: f.other}
	row.Note = fmt.Sprintf("%d of %d tensors differ", f.differ, f.tensors)
	return row
}

// growthShapes are models from 10 MB on, each about ten times as large as the one before.
func growthShapes(full bool) []synth.Shape {
	list := []synth.Shape{
		{Embed: 256, Layers: 4, FF: 768, Heads: 8, KVHeads: 4, Vocab: 4096, Context: 1024},
		{Embed: 512, Layers: 10, FF: 1536, Heads: 8, KVHeads: 4, Vocab: 32000, Context: 1024},
		{Embed: 2048, Layers: 8, FF: 5632, Heads: 32, KVHeads: 4, Vocab: 32000, Context: 2048},
	}
	if full {
		huge := synth.Llama1B
		huge.Layers = 112
		list = append(list, huge)
	}
	return list
}
