package quantize

import (
	"context"
	"errors"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/progress"
	"github.com/pare-dev/pare/ir"
)

// CalibrateOptions of Calibrate.
type CalibrateOptions struct {
	Head     bool     // also for the output matrix (llama.cpp: --process-output)
	Datasets []string // names of the texts, kept in the file
	Progress progress.Sink
}

// Calibrate runs the model over sequences of tokens and sums the squares of the inputs of every
// linear layer, as llama.cpp's imatrix tool does: all positions of all sequences count. The sums
// are made in double precision, in token order, so that they do not depend on threads.
func Calibrate(ctx context.Context, m *ir.Model, ex ir.Executor, sequences [][]int32, opt CalibrateOptions) (*Statistics, error) {
	if err := m.CannotRun(); err != nil {
		return nil, &fault.Error{File: m.Path, Op: "calibrate", Err: fault.As(fault.ErrMisuse, err)}
	}
	if opt.Progress == nil {
		opt.Progress = progress.Discard
	}
	s := &Statistics{Layers: map[string]*InputStats{}, Datasets: opt.Datasets, Chunks: len(sequences)}
	var tokens int64
	for _, q := range sequences {
		tokens += int64(len(q))
		s.ChunkSize = max(s.ChunkSize, len(q))
	}
	if tokens == 0 {
		return nil, &fault.Error{File: m.Path, Op: "calibrate", Err: fault.As(fault.ErrMisuse, errors.New("no calibration tokens"))}
	}
	layers := m.Decoder.Layers
	opt.Progress.Stage("calibrate", tokens, "tokens")
	walk, err := ex.Start(ctx, m, sequences)
	if err != nil {
		return nil, err
	}
	defer walk.Close()
	for walk.Block() < layers {
		block := walk.Block()
		for _, stage := range ir.Stages {
			var sum squares
			err := walk.Inputs(ctx, stage, sum.add)
			if err != nil {
				return nil, err
			}
			for _, r := range stage.Roles {
				if t := m.Role(r, block); t != nil {
					s.Layers[ggufName(t)] = sum.stats()
				}
			}
		}
		if err := walk.Next(ctx); err != nil {
			return nil, err
		}
		// every token counts once, a part of it after each block
		opt.Progress.Add(tokens*int64(block+1)/int64(layers) - tokens*int64(block)/int64(layers))
	}
	if opt.Head {
		head := m.Role(ir.RoleHead, -1)
		if head == nil {
			head = m.Role(ir.RoleEmbedding, -1) // tied
		}
		var sum squares
		if err := walk.Head(ctx, sum.add); err != nil {
			return nil, err
		}
		s.Layers[ggufName(head)] = sum.stats()
	}
	for name, l := range s.Layers {
		for _, v := range l.Sums {
			if v-v != 0 {
				return nil, &fault.Error{File: m.Path, Tensor: name, Op: "calibrate", Err: fault.ErrNotFinite}
			}
		}
	}
	return s, nil
}

// squares sums x^2 of each column over rows.
type squares struct {
	sums []float64
	rows int
}

func (s *squares) add(x []float32, rows, cols int) error {
	if s.sums == nil {
		s.sums = make([]float64, cols)
	}
	for r := range rows {
		row := x[r*cols:][:len(s.sums)]
		for i, v := range row {
			s.sums[i] += float64(float64(v) * float64(v))
		}
	}
	s.rows += rows
	return nil
}

func (s *squares) stats() *InputStats {
	l := &InputStats{Sums: make([]float32, len(s.sums)), Counts: []float32{float32(s.rows)}}
	for i, v := range s.sums {
		l.Sums[i] = float32(v)
	}
	return l
}
