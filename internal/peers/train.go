package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/pare-dev/pare/distill"
	"github.com/pare-dev/pare/formats"
	"github.com/pare-dev/pare/internal/cpu"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/internal/proc"
)

const (
	trainModel  = "testdata/books-llama/model"
	trainBatch  = 16
	trainLength = 256
	// trainVerb is the argument that makes this program the one that trains, in a process of its own, so that its
	// memory can be told.
	trainVerb = "train"
)

// train compares steps of distillation, every weight of the small model learning from a teacher of its size,
// with PyTorch.
func (b *bench) train() (rows []Row) {
	self, err := os.Executable()
	if err != nil {
		return []Row{failed("training", err)}
	}
	for _, c := range []struct {
		typ, name string
		bar       bool
	}{{"bf16", "against autocast to bfloat16", true}, {"f32", "against float32", false}} {
		b.log("%s", c.name)
		mine, err := start(b.ctx, nil, self, trainVerb, trainModel, fmt.Sprint(b.threads))
		if err != nil {
			return append(rows, failed(c.name, err))
		}
		rows = append(rows, b.trainPair(c.typ, c.name, c.bar, mine)...)
		mine.close()
	}
	return rows
}

// trainPair measures both sides' steps and then their memory.
func (b *bench) trainPair(typ, name string, bar bool, mine *client) []Row {
	ask := func(c *client) func() (float64, error) {
		return func() (float64, error) { return c.number("step %s %d %d", typ, trainBatch, trainLength) }
	}
	var peer *client
	var theirs func() (float64, error)
	why := b.tools.Torch.Why
	if why == "" {
		var err error
		if peer, err = start(b.ctx, nil, b.tools.Torch.Python, filepath.Join(scripts, "train.py"), trainModel, fmt.Sprint(b.threads)); err != nil {
			return []Row{failed(name, err)}
		}
		defer peer.close()
		theirs = ask(peer)
	}
	own, others, _, err := b.inTurns(1, b.rounds, ask(mine), theirs)
	if err != nil {
		return []Row{failed(name, err)}
	}
	const tokens = trainBatch * trainLength
	row := Row{Name: "steps of 4096 tokens, " + name, Unit: "tokens/s", Why: why}.compare(perSecond(own, tokens), perSecond(others, tokens), true)
	held := Row{Name: "most memory resident, " + name, Unit: "MiB", Why: why}
	var memory, beside []float64
	for _, x := range []struct {
		c  *client
		to *[]float64
	}{{mine, &memory}, {peer, &beside}} {
		if x.c == nil {
			continue
		}
		bytes, err := x.c.number("memory")
		if err != nil {
			return []Row{row, failed(held.Name, err)}
		}
		*x.to = []float64{bytes / (1 << 20)}
	}
	held = held.compare(memory, beside, false)
	if bar {
		row, held = row.bar(1, 1.5), held.bar(2, 2)
	}
	return []Row{row, held}
}

// trainSide is the process that trains: it answers as train.py does.
func trainSide(args []string) error {
	if len(args) != 2 {
		return fmt.Errorf("%s MODEL THREADS", trainVerb)
	}
	ctx := context.Background()
	var threads int
	if _, err := fmt.Sscan(args[1], &threads); err != nil {
		return err
	}
	m, err := formats.Open(ctx, args[0])
	if err != nil {
		return err
	}
	defer m.Close()
	k := kernels.For(cpu.Best())
	student, err := distill.Load[float32](ctx, m, k, threads, trainLength, nil)
	if err != nil {
		return err
	}
	teacher, err := distill.Load[float32](ctx, m, k, threads, trainLength, distill.Nothing)
	if err != nil {
		return err
	}
	ids := make([][]int32, trainBatch)
	for i := range ids {
		for j := range trainLength {
			ids[i] = append(ids[i], int32((i*trainLength+j)*37%4000+5))
		}
	}
	t, err := distill.NewTrainer(student, teacher, distill.Plain(ids), func(*distill.Param[float32]) bool { return true }, distill.Options{Tokens: 1 << 40, Batch: trainBatch, Threads: threads})
	if err != nil {
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if strings.HasPrefix(in.Text(), "memory") {
			fmt.Println("ok", proc.PeakMemory())
			continue
		}
		p, err := t.Step(ctx)
		if err != nil {
			return err
		}
		fmt.Println("ok", p.Seconds)
	}
	return nil
}
