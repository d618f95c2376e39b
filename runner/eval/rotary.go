package eval

import (
	"fmt"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "RotaryEmbedding", Inputs: 3, Narrow: true, Plan: byFloat(rotary[float32], rotary[float64])})
	register(Op{Domain: msDomain, Name: "RotaryEmbedding", Inputs: 4, Narrow: true, Plan: byFloat(msRotary[float32], msRotary[float64])})
}

// msDomain is the domain of the operators that ONNX Runtime adds.
const msDomain = "com.microsoft"

// rotation turns pairs of numbers of every head by angles that grow with the position.
type rotation struct {
	batch, heads, seq, size int
	turned                  int  // numbers of a head that are turned, the first ones
	interleaved             bool // pairs are neighbours, not halves
	headsFirst              bool // [batch, heads, seq, size] instead of [batch, seq, heads, size]
	rows                    int  // of the tables of cosines and sines
}

// newRotation reads what both forms of the operator share; heads is how many a tensor of 3 dimensions has, or 0
// when the width of the tables says so.
func newRotation(c *Call, cos, sin, heads int) (*rotation, error) {
	in, table := c.Shape(0), c.Shape(cos)
	r := &rotation{interleaved: c.Node.Int("interleaved", 0) != 0, turned: c.Node.Int("rotary_embedding_dim", 0)}
	if len(table) == 0 || c.Type(cos) != c.Type(0) || c.Type(sin) != c.Type(0) || c.Elems(sin) != c.Elems(cos) {
		return nil, c.Fault("tables %s %v and %s %v for %s", c.Type(cos), table, c.Type(sin), c.Shape(sin), c.Type(0))
	}
	width := table[len(table)-1]
	switch len(in) {
	case 4:
		r.batch, r.heads, r.seq, r.size, r.headsFirst = in[0], in[1], in[2], in[3], true
	case 3:
		if heads == 0 && r.turned == 0 && width > 0 && in[2]%(2*width) == 0 {
			heads = in[2] / (2 * width)
		}
		if heads < 1 || in[2]%heads != 0 {
			return nil, c.Fault("%d heads of shape %v", heads, in)
		}
		r.batch, r.seq, r.heads, r.size = in[0], in[1], heads, in[2]/heads
	default:
		return nil, c.Fault("shape %v", in)
	}
	if r.turned == 0 {
		r.turned = r.size
	}
	if r.turned < 0 || r.turned > r.size || r.turned%2 != 0 || width != r.turned/2 {
		return nil, c.Fault("%d of %d numbers are turned, tables of %v", r.turned, r.size, table)
	}
	if width > 0 {
		r.rows = c.Elems(cos) / width
	}
	return r, nil
}

func rotary[T float](c *Call) (Step, error) {
	r, err := newRotation(c, 1, 2, c.Node.Int("num_heads", 0))
	if err != nil {
		return Step{}, err
	}
	want := 3
	if c.Has(3) {
		want = 2
		if c.Elems(3) != r.batch*r.seq {
			return Step{}, c.Fault("positions %v of %d tokens", c.Shape(3), r.batch*r.seq)
		}
	} else if r.turned > 0 && r.rows != r.batch*r.seq {
		return Step{}, c.Fault("tables %v of %d tokens", c.Shape(1), r.batch*r.seq)
	}
	if len(c.Shape(1)) != want {
		return Step{}, c.Fault("tables %v", c.Shape(1))
	}
	return Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		at := func(token int) int { return token }
		if len(in) > 3 && in[3] != nil {
			list, err := in[3].Ints()
			if err != nil {
				return err
			}
			at = func(token int) int { return int(list[token]) }
		}
		return rotatePairs(w, r, elems[T](out[0]), elems[T](in[0]), elems[T](in[1]), elems[T](in[2]), at)
	}}, nil
}

// msRotary has the positions before the tables: one for each token, or the first one.
func msRotary[T float](c *Call) (Step, error) {
	r, err := newRotation(c, 2, 3, c.Node.Int("num_heads", 0))
	if err != nil {
		return Step{}, err
	}
	n := c.Elems(1)
	if n != 1 && n != r.batch*r.seq {
		return Step{}, c.Fault("positions %v of %d tokens", c.Shape(1), r.batch*r.seq)
	}
	return Step{Out: []Spec{Out(c.Type(0), c.Shape(0)...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		list, err := in[1].Ints()
		if err != nil {
			return err
		}
		at := func(token int) int { return int(list[token]) }
		if n == 1 {
			at = func(token int) int { return int(list[0]) + token%r.seq }
		}
		return rotatePairs(w, r, elems[T](out[0]), elems[T](in[0]), elems[T](in[2]), elems[T](in[3]), at)
	}}, nil
}

// rotatePairs writes the turned heads of all tokens; at is the row of the tables that a token takes.
func rotatePairs[T float](w *Worker, r *rotation, y, x, cos, sin []T, at func(token int) int) error {
	half := r.turned / 2
	if len(x) == 0 {
		return nil
	}
	for token := range r.batch * r.seq {
		if row := at(token); half > 0 && (row < 0 || row >= r.rows) {
			return fmt.Errorf("position %d of %d", row, r.rows)
		}
	}
	copy(y, x)
	if half == 0 {
		return nil
	}
	w.Range(r.batch*r.seq, 4*r.heads*r.size, func(lo, hi int) {
		for token := lo; token < hi; token++ {
			row := at(token) * half
			c, s := cos[row:row+half], sin[row:row+half]
			for h := range r.heads {
				from := (token*r.heads + h) * r.size
				if r.headsFirst {
					from = ((token/r.seq*r.heads+h)*r.seq + token%r.seq) * r.size
				}
				head := y[from : from+r.turned]
				for i := range half {
					a, b := i, i+half
					if r.interleaved {
						a, b = 2*i, 2*i+1
					}
					p, q := head[a], head[b]
					head[a] = T(c[i]*p) - T(s[i]*q)
					head[b] = T(s[i]*p) + T(c[i]*q)
				}
			}
		}
	})
	return nil
}
