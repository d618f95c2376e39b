package samples

import (
	"fmt"
	"os"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/media"
	"github.com/pare-dev/pare/ir/graph"
)

// audio makes chunks of a sound. Chunk i begins hop*i - before samples from the beginning; what lies before the
// beginning or after the end is zero. There are as many chunks as it takes to hear all of it.
func (in *input) audio(path string) (item, error) {
	x, chunk, err := in.sound(path)
	if err != nil {
		return item{}, err
	}
	h := in.how
	hop := h.Hop
	if hop == 0 {
		hop = chunk - h.Before
	}
	if hop <= 0 || h.Before >= chunk {
		return item{}, wrong(in.v, "chunks of %d samples, %d of them from before, every %d: that leads nowhere", chunk, h.Before, hop)
	}
	shape, err := in.line(chunk)
	if err != nil {
		return item{}, err
	}
	n := 1 + (max(0, len(x)-(chunk-h.Before))+hop-1)/hop
	return item{name: path, n: n, open: func() (loaded, error) {
		x, _, err := in.sound(path) // read again: a folder of sounds is not held in memory
		if err != nil {
			return loaded{}, err
		}
		return loaded{read: func(k int) (*graph.Tensor, error) {
			t := graph.New(graph.Float32, shape...)
			out := graph.Of[float32](t)
			for i := range out {
				if at := k*hop - h.Before + i; at >= 0 && at < len(x) {
					out[i] = normal(x[at], 0, h)
				}
			}
			return in.numbers(t)
		}}, nil
	}}, nil
}

// sound reads a recording, and says how long a chunk of it is.
func (in *input) sound(path string) (x []float32, chunk int, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	s, err := media.ReadWAV(f, st.Size())
	if err != nil {
		return nil, 0, &fault.Error{File: path, Op: "input " + in.v.Name, Err: err}
	}
	if want := in.how.Rate; want > 0 && s.Rate != want {
		return nil, 0, &fault.Error{
			File: path, Op: "input " + in.v.Name, Err: fault.As(fault.ErrMisuse, fmt.Errorf("%d samples a second, the recipe wants %d", s.Rate, want)),
			Hint: fmt.Sprintf("give a recording of %d Hz: pare does not resample sounds", want),
		}
	}
	x = s.Mono()
	chunk = in.how.Chunk
	if last := len(in.shape) - 1; chunk == 0 && last >= 0 {
		chunk = max(0, in.shape[last])
	}
	if chunk == 0 {
		chunk = len(x) + in.how.Before
	}
	return x, chunk, nil
}

// line is the shape of n numbers in a row: the last axis, the others 1.
func (in *input) line(n int) ([]int, error) {
	if in.shape == nil {
		return []int{1, n}, nil
	}
	out := make([]int, len(in.shape))
	for i, d := range in.shape {
		if out[i] = 1; i == len(out)-1 {
			out[i] = n
		}
		if d >= 0 && d != out[i] {
			return nil, wrong(in.v, "%d numbers in a row do not fit %s", n, Text(in.shape))
		}
	}
	if len(out) == 0 {
		return nil, wrong(in.v, "the input is one number")
	}
	return out, nil
}
