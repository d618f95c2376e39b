package qgraph

import (
	"context"
	"errors"
	"math"

	"github.com/pare-dev/pare/internal/calib"
	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir"
	"github.com/pare-dev/pare/ir/graph"
)

const (
	roundCols    = 768     // wider layers are rounded to nearest: the products of their inputs would take minutes
	roundMemory  = 1 << 29 // bytes of moments at once
	roundKept    = 1 << 26 // bytes of values kept between layers, which bounds the samples
	roundSamples = 64
	roundLeast   = 16 // samples, whatever they take
)

// stages groups layers by how many others lie before them: those of one stage do not read each other.
func (p *placement) stages() [][]*layer {
	depth := map[*graph.Value]int{}
	var out [][]*layer
	for _, n := range p.g.Nodes {
		d := 0
		for v := range graph.Reads(n) {
			d = max(d, depth[v])
		}
		if l := p.layers[n]; p.form[n] == formLinear {
			for len(out) <= d {
				out = append(out, nil)
			}
			out[d] = append(out[d], l)
			d++
		}
		for _, v := range n.Out {
			depth[v] = d
		}
	}
	return out
}

// round chooses the codes of all layers by least squares on what they really read, the codes before them
// included, and lets biases take up the mean error. Layers are taken in the order in which they compute, and
// each sees what was made of those before it.
func (s *Static) round(ctx context.Context, p *placement, scales map[*graph.Value]calib.Affine, codes map[*graph.Node]*weights) ([]LayerReport, error) {
	kern := kernels.For(s.cfg.ISA)
	samples, err := s.some(ctx, p)
	if err != nil {
		return nil, err
	}
	b := build(p, scales, codes)
	float, integer := newWalker(s.net, p.g, samples), newWalker(s.net, b.g, samples)
	var reports []LayerReport
	for _, stage := range p.stages() {
		for len(stage) > 0 {
			n, size := 0, 0
			for n < len(stage) && (n == 0 || size+s.momentBytes(stage[n]) <= roundMemory) {
				size += s.momentBytes(stage[n])
				n++
			}
			all, err := s.measure(ctx, kern, b, float, integer, stage[:n])
			if err != nil {
				return nil, err
			}
			for i, l := range stage[:n] {
				q, r, err := s.solve(ctx, kern, l, codes[l.n], all[i])
				if err != nil {
					return nil, err
				}
				r.Node = l.n.Label()
				reports = append(reports, r)
				codes[l.n] = q
				b.replace(l.n, q, scales[p.head(l.n.In[0])].Scale)
			}
			stage = stage[n:]
		}
	}
	return reports, nil
}

// some takes samples from all over the set, as many as there is memory for what is kept between layers.
func (s *Static) some(ctx context.Context, p *placement) ([]ir.Sample, error) {
	size := 0
	for _, n := range p.g.Nodes {
		for _, v := range n.Out {
			if dims, ok := shapeOf(v); ok {
				size = max(size, 4*graph.Elems(dims))
			} else { // of an open shape: what calibration saw
				size = max(size, 4*s.sizes[v])
			}
		}
	}
	// Both networks keep a few of their largest values at a time.
	n := min(s.samples.Len(), roundSamples, max(roundKept/max(8*size, 1), roundLeast))
	out := make([]ir.Sample, n)
	for i := range out {
		x, err := s.samples.Sample(ctx, i*s.samples.Len()/n)
		if err != nil {
			return nil, err
		}
		out[i] = x
	}
	return out, nil
}

func shapeOf(v *graph.Value) ([]int, bool) {
	if v == nil {
		return nil, false
	}
	return v.Shape.Known()
}

// products reports whether the codes of a layer are chosen by what it reads.
func (s *Static) products(l *layer) bool { return !s.cfg.NoRounding && l.cols <= roundCols }

func (s *Static) momentBytes(l *layer) int {
	if !s.products(l) {
		return l.groups * l.cols * 2 * 8
	}
	return l.groups * l.cols * l.cols * 4 * 4
}

// measure gathers the moments of some layers from both networks, sample by sample.
func (s *Static) measure(ctx context.Context, kern *kernels.Set, b *builder, float, integer *walker, list []*layer) ([][]*moments, error) {
	wantF, wantQ := make([]*graph.Value, len(list)), make([]*graph.Value, len(list))
	out := make([][]*moments, len(list))
	for i, l := range list {
		wantF[i], wantQ[i] = l.n.In[0], b.nodes[l.n].In[0]
		out[i] = make([]*moments, l.groups)
		for g := range out[i] {
			out[i][g] = newMoments(l.cols, s.products(l))
		}
	}
	if err := errors.Join(float.to(ctx, wantF), integer.to(ctx, wantQ)); err != nil {
		return nil, err
	}
	samples := len(float.samples)
	for i := range samples {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		f, err := float.step(ctx, i)
		if err != nil {
			return nil, err
		}
		q, err := integer.step(ctx, i)
		if err != nil {
			return nil, err
		}
		_, shift := math.Modf(float64(i) * golden) // positions differ from sample to sample
		for k, l := range list {
			if err := l.gather(ctx, kern, out[k], f[k], q[k], samples, shift); err != nil {
				return nil, err
			}
		}
	}
	return out, errors.Join(float.close(), integer.close())
}
