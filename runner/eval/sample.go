package eval

import (
	"math"
	"slices"

	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "GridSample", Inputs: 2, Narrow: true, Plan: planGridSample})
	register(Op{Name: "AffineGrid", Inputs: 2, Narrow: true, Plan: planAffineGrid})
}

// grid is how an image is read at places between its pixels.
type grid struct {
	dims    []int
	mode    string // nearest, linear, cubic
	padding string // zeros, border, reflection
	corners bool   // -1 and 1 are the centres of the outermost pixels, not their edges
}

// tapped is the pixels along one dimension that a place is made of; index -1 is outside.
type tapped struct {
	n      int
	index  [4]int
	weight [4]float64
}

// planGridSample reads images [n, channels, dims...] at the places of a grid [n, places..., len(dims)], whose
// coordinates come last dimension first.
func planGridSample(c *Call) (Step, error) {
	in, at := c.Shape(0), c.Shape(1)
	rank := len(in) - 2
	if rank < 1 || rank > maxSpace || len(at) != len(in) || at[0] != in[0] || at[rank+1] != rank {
		return Step{}, c.Fault("images %v, grid %v", in, at)
	}
	if !c.Type(0).Float() && !c.Type(0).Integer() || !c.Type(1).Float() {
		return Step{}, c.Fault("images %s, grid %s", c.Type(0), c.Type(1))
	}
	g := &grid{
		dims: in[2:], mode: c.Node.Str("mode", "linear"), padding: c.Node.Str("padding_mode", "zeros"),
		corners: c.Node.Int("align_corners", 0) != 0,
	}
	switch g.mode {
	case "bilinear": // as versions before 20 call them
		g.mode = "linear"
	case "bicubic":
		g.mode = "cubic"
	case "linear", "cubic", "nearest":
	default:
		return Step{}, c.Fault("mode %q", g.mode)
	}
	if g.padding != "zeros" && g.padding != "border" && g.padding != "reflection" {
		return Step{}, c.Fault("padding_mode %q", g.padding)
	}
	shape := slices.Concat(in[:2], at[1:rank+1])
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	places, plane := graph.Elems(at[1:rank+1]), graph.Elems(g.dims)
	if plane == 0 && graph.Elems(shape) > 0 {
		return Step{}, c.Fault("images %v", in)
	}
	single := c.Type(1) != graph.Float64
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(w *Worker, ts, out []*graph.Tensor) error {
		if graph.Elems(shape) == 0 {
			return nil
		}
		x, xy := numbers(ts[0]), numbers(ts[1])
		y := make([]float64, graph.Elems(shape))
		w.Range(in[0]*places, in[1]*64, func(lo, hi int) {
			taps := make([]tapped, rank)
			for p := lo; p < hi; p++ {
				for d := range rank {
					taps[d] = g.taps(d, xy[p*rank+rank-1-d], single)
				}
				n, place := p/places, p%places
				for ch := range in[1] {
					y[(n*in[1]+ch)*places+place] = g.read(x[(n*in[1]+ch)*plane:][:plane], taps)
				}
			}
		})
		recode(out[0], graph.From(graph.Float64, y, shape...))
		return nil
	}}, nil
}

// taps finds the pixels of a dimension at a coordinate from -1 to 1. Coordinates of float32 grids are rounded to it,
// since a half decides which pixel is the nearest.
func (g *grid) taps(d int, v float64, single bool) tapped {
	n := float64(g.dims[d])
	lo, hi := -0.5, n-0.5
	if g.corners {
		lo, hi = 0, n-1
		v = (v + 1) / 2 * (n - 1)
	} else {
		v = ((v+1)*n - 1) / 2
	}
	if single {
		v = float64(float32(v))
	}
	if g.mode == "nearest" {
		v = math.RoundToEven(v)
	}
	if !(v >= lo && v <= hi) {
		switch g.padding {
		case "border":
			v = min(max(v, 0), n-1)
		case "reflection":
			v = reflect(v, lo, hi)
		}
	}
	if !(math.Abs(v) < 1<<40) { // NaN, and what is beyond any image
		v = -1 << 40
	}
	base := int(math.Floor(v))
	f := v - float64(base)
	var t tapped
	switch g.mode {
	case "nearest":
		t.n, t.index[0], t.weight[0] = 1, base, 1
	case "linear":
		t.n, t.index, t.weight = 2, [4]int{base, base + 1}, [4]float64{1 - f, f}
	default:
		const a = -0.75
		near := func(x float64) float64 { return ((a+2)*x-(a+3))*x*x + 1 }
		far := func(x float64) float64 { return ((a*x-5*a)*x+8*a)*x - 4*a }
		t.n, t.index = 4, [4]int{base - 1, base, base + 1, base + 2}
		t.weight = [4]float64{far(f + 1), near(f), near(1 - f), far(2 - f)}
	}
	for i := range t.n {
		k := t.index[i]
		switch {
		case k >= 0 && k < g.dims[d]:
		case g.padding == "zeros":
			k = -1
		case g.padding == "reflection":
			k = min(max(int(reflect(float64(k), lo, hi)), 0), g.dims[d]-1)
		default:
			k = min(max(k, 0), g.dims[d]-1)
		}
		t.index[i] = k
	}
	return t
}

// reflect mirrors v at the ends of a range until it lies inside.
func reflect(v, lo, hi float64) float64 {
	span := hi - lo
	if span <= 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return lo
	}
	over := math.Mod(math.Abs(v-lo), 2*span)
	if over > span {
		over = 2*span - over
	}
	return lo + over
}

// read is the weighted sum of pixels.
func (g *grid) read(x []float64, taps []tapped) float64 {
	t := &taps[0]
	size := len(x) / g.dims[len(g.dims)-len(taps)]
	sum := 0.0
	for i := range t.n {
		if t.index[i] < 0 || t.weight[i] == 0 {
			continue
		}
		v := x[t.index[i]*size:]
		if len(taps) == 1 {
			sum += float64(v[0] * t.weight[i])
		} else {
			sum += float64(g.read(v[:size], taps[1:]) * t.weight[i])
		}
	}
	return sum
}

// planAffineGrid makes the grid that GridSample reads from maps [n, rank, rank+1] and the size of the images.
func planAffineGrid(c *Call) (Step, error) {
	theta := c.Shape(0)
	size, err := c.Ints(1)
	if err != nil {
		return Step{}, err
	}
	rank := len(size) - 2
	if rank < 1 || rank > maxSpace || !slices.Equal(theta, []int{size[0], rank, rank + 1}) || !c.Type(0).Float() {
		return Step{}, c.Fault("maps %s %v, images %v", c.Type(0), theta, size)
	}
	shape := slices.Concat(size[:1], size[2:], []int{rank})
	if err := graph.CheckShape(append([]int{8}, shape...)); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	corners := c.Node.Int("align_corners", 0) != 0
	dims, places := size[2:], graph.Elems(size[2:])
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(w *Worker, in, out []*graph.Tensor) error {
		a, y := numbers(in[0]), make([]float64, graph.Elems(shape))
		if len(y) == 0 {
			return nil
		}
		w.Range(size[0]*places, 8*rank, func(lo, hi int) {
			at := make([]float64, rank+1)
			for p := lo; p < hi; p++ {
				rest := p % places
				for d := rank - 1; d >= 0; d-- {
					i, n := float64(rest%dims[d]), float64(dims[d])
					rest /= dims[d]
					switch v := &at[rank-1-d]; {
					case corners && n == 1:
						*v = 0
					case corners:
						*v = 2*i/(n-1) - 1
					default:
						*v = (2*i+1)/n - 1
					}
				}
				at[rank] = 1
				for k := range rank {
					row := a[(p/places*rank+k)*(rank+1):][:rank+1]
					for j, v := range at {
						y[p*rank+k] += float64(row[j] * v)
					}
				}
			}
		})
		recode(out[0], graph.From(graph.Float64, y, shape...))
		return nil
	}}, nil
}
