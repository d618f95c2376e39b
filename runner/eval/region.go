package eval

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/pare-dev/pare/internal/kernels"
	"github.com/pare-dev/pare/ir/graph"
)

func init() {
	register(Op{Name: "RoiAlign", Inputs: 3, Narrow: true, Plan: byFloat(roiAlign[float32], roiAlign[float64])})
	register(Op{Name: "MaxRoiPool", Inputs: 2, Narrow: true, Plan: byFloat(maxRoiPool[float32], maxRoiPool[float64])})
	register(Op{Name: "DeformConv", Inputs: 3, Narrow: true, Plan: byFloat(deformConv[float32], deformConv[float64])})
	register(Op{Name: "NonMaxSuppression", Inputs: 2, Plan: planNonMax})
}

// corner is a pixel that a place between pixels is made of.
type corner struct {
	at     int
	weight float64
}

// between finds the four pixels around a place of an image, which lies inside of it or near its edge.
func between(h, w int, y, x float64) [4]corner {
	y, x = max(y, 0), max(x, 0)
	y0, x0 := min(int(y), h-1), min(int(x), w-1)
	y1, x1 := min(y0+1, h-1), min(x0+1, w-1)
	fy, fx := y-float64(y0), x-float64(x0)
	if y0 == y1 {
		fy = 0
	}
	if x0 == x1 {
		fx = 0
	}
	return [4]corner{
		{y0*w + x0, (1 - fy) * (1 - fx)},
		{y0*w + x1, (1 - fy) * fx},
		{y1*w + x0, fy * (1 - fx)},
		{y1*w + x1, fy * fx},
	}
}

// maxSamples bounds the places along a side of a bin that RoiAlign reads when it chooses their number itself.
const maxSamples = 1 << 12

// roiAlign reads regions of images at places of a grid and takes the mean or the maximum of those in each bin.
func roiAlign[T float](c *Call) (Step, error) {
	in, rois := c.Shape(0), c.Shape(1)
	oh, ow := c.Node.Int("output_height", 1), c.Node.Int("output_width", 1)
	ratio, scale := c.Node.Int("sampling_ratio", 0), float64(c.Node.Float("spatial_scale", 1))
	if len(in) != 4 || len(rois) != 2 || rois[1] != 4 || c.Elems(2) != rois[0] || c.Type(1) != c.Type(0) || oh < 1 || ow < 1 ||
		ratio < 0 || ratio > maxSamples || in[2] < 1 || in[3] < 1 {
		return Step{}, c.Fault("images %v, regions %s %v, %v indices, bins %d by %d, sampling_ratio %d", in, c.Type(1), rois, c.Shape(2), oh, ow, ratio)
	}
	shift := 0.0
	if c.Version >= 16 && c.Node.Str("coordinate_transformation_mode", "half_pixel") == "half_pixel" {
		shift = 0.5
	}
	mode := c.Node.Str("mode", "avg")
	if mode != "avg" && mode != "max" {
		return Step{}, c.Fault("mode %q", mode)
	}
	shape := []int{rois[0], in[1], oh, ow}
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	h, w := in[2], in[3]
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		x, boxes, y := elems[T](ts[0]), numbers(ts[1]), elems[T](out[0])
		images, err := ts[2].Ints()
		if err != nil {
			return err
		}
		var corners []corner
		for r, image := range images {
			if image < 0 || image >= int64(in[0]) {
				return indexError(image, in[0])
			}
			var lo, size [2]float64 // of y and x
			var n [2]int
			for d, bins := range []int{oh, ow} {
				lo[d] = boxes[4*r+1-d]*scale - shift
				size[d] = boxes[4*r+3-d]*scale - shift - lo[d]
				if shift == 0 {
					size[d] = max(size[d], 1) // what is malformed has one pixel
				}
				size[d] /= float64(bins)
				if n[d] = ratio; ratio == 0 {
					if !(math.Abs(size[d]) <= maxSamples) {
						return fmt.Errorf("region %d has bins of %v pixels", r, size[d])
					}
					n[d] = max(int(math.Ceil(size[d])), 0)
				}
			}
			count := float64(max(n[0]*n[1], 1))
			for bin := range oh * ow {
				corners = corners[:0]
				for s := range n[0] * n[1] {
					py := lo[0] + float64(bin/ow)*size[0] + (float64(s/n[1])+0.5)*size[0]/float64(n[0])
					px := lo[1] + float64(bin%ow)*size[1] + (float64(s%n[1])+0.5)*size[1]/float64(n[1])
					four := [4]corner{}
					if py >= -1 && py <= float64(h) && px >= -1 && px <= float64(w) {
						four = between(h, w, py, px)
					}
					corners = append(corners, four[:]...)
				}
				for ch := range in[1] {
					plane := x[(int(image)*in[1]+ch)*h*w:][:h*w]
					v, most := 0.0, math.Inf(-1)
					for _, k := range corners {
						p := float64(plane[k.at]) * k.weight
						v += p
						most = max(most, p)
					}
					switch {
					case mode == "avg":
						v /= count
					case len(corners) > 0:
						v = most
					}
					y[(r*in[1]+ch)*oh*ow+bin] = T(v)
				}
			}
		}
		return nil
	}}, nil
}

// maxRoiPool takes the maximum of each bin of regions, whose corners are rounded to pixels.
func maxRoiPool[T float](c *Call) (Step, error) {
	in, rois, bins := c.Shape(0), c.Shape(1), c.Node.Ints("pooled_shape")
	if len(in) != 4 || len(rois) != 2 || rois[1] != 5 || c.Type(1) != c.Type(0) || len(bins) != 2 || bins[0] < 1 || bins[1] < 1 {
		return Step{}, c.Fault("images %v, regions %s %v, bins %v", in, c.Type(1), rois, bins)
	}
	shape := []int{rois[0], in[1], bins[0], bins[1]}
	if err := graph.CheckShape(shape); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	scale := float64(c.Node.Float("spatial_scale", 1))
	return Step{Out: []Spec{Out(c.Type(0), shape...)}, Run: func(_ *Worker, ts, out []*graph.Tensor) error {
		x, boxes, y := elems[T](ts[0]), numbers(ts[1]), elems[T](out[0])
		plane := in[2] * in[3]
		for r := range rois[0] {
			box := boxes[5*r : 5*r+5]
			image := box[0]
			if !(image >= 0 && image < float64(in[0])) {
				return fmt.Errorf("region %d is of image %v of %d", r, image, in[0])
			}
			var lo, size [2]float64
			for d := range 2 {
				lo[d] = math.Round(box[2-d] * scale)
				size[d] = max(math.Round(box[4-d]*scale)-lo[d]+1, 1) / float64(bins[d])
			}
			span := func(d, i int) (int, int) { // the pixels of bin i
				a := min(max(math.Floor(float64(i)*size[d])+lo[d], 0), float64(in[2+d]))
				b := min(max(math.Ceil(float64(i+1)*size[d])+lo[d], 0), float64(in[2+d]))
				if !(a < b) {
					return 0, 0
				}
				return int(a), int(b)
			}
			for p := range in[1] * bins[0] * bins[1] {
				ch, i, j := p/(bins[0]*bins[1]), p/bins[1]%bins[0], p%bins[1]
				y0, y1 := span(0, i)
				x0, x1 := span(1, j)
				best := T(0)
				for py := y0; py < y1; py++ {
					for px := x0; px < x1; px++ {
						if v := x[(int(image)*in[1]+ch)*plane+py*in[3]+px]; py == y0 && px == x0 || v > best {
							best = v
						}
					}
				}
				y[r*in[1]*bins[0]*bins[1]+p] = best
			}
		}
		return nil
	}}, nil
}

// deformConv is a convolution whose taps lie where offsets [n, groups*size*2, outs] move them, weighted by a mask.
func deformConv[T float](c *Call) (Step, error) {
	x := c.Shape(0)
	k, err := newConvolution(c, 1)
	if err != nil {
		return Step{}, err
	}
	parts := c.Node.Int("offset_group", 1)
	if len(x) != 4 || parts < 1 || k.channels%parts != 0 || k.ins == 0 ||
		!slices.Equal(c.Shape(2), k.shape(k.n, 2*parts*k.size)) || c.Has(4) && !slices.Equal(c.Shape(4), k.shape(k.n, parts*k.size)) ||
		c.Has(3) && c.Elems(3) != k.maps {
		return Step{}, c.Fault("images %v, weights %v, offsets %v, bias %v, mask %v, offset_group %d", x, c.Shape(1), c.Shape(2), c.Shape(3), c.Shape(4), parts)
	}
	for _, i := range []int{1, 2, 3, 4} {
		if c.Has(i) && c.Type(i) != c.Type(0) {
			return Step{}, c.Fault("input %d is %s, images are %s", i, c.Type(i), c.Type(0))
		}
	}
	depth, maps, h, w := k.channels/k.groups, k.maps/k.groups, x[2], x[3]
	inner := k.channels * k.size
	if err := graph.CheckShape([]int{inner, k.outs, 8}); err != nil {
		return Step{}, c.Fault("%w", err)
	}
	typ := c.Type(0)
	s := Step{Out: []Spec{Out(typ, k.shape(k.n, k.maps)...)}, Scratch: typ.Bytes(inner * k.outs)}
	s.Run = func(wk *Worker, in, out []*graph.Tensor) error {
		img, weights, offset, y := elems[T](in[0]), elems[T](in[1]), elems[T](in[2]), elems[T](out[0])
		if len(y) == 0 {
			return nil
		}
		var bias, mask []T
		if len(in) > 3 && in[3] != nil {
			bias = elems[T](in[3])
		}
		if len(in) > 4 && in[4] != nil {
			mask = elems[T](in[4])
		}
		col := elems[T](&graph.Tensor{Type: typ, Data: wk.Scratch})
		for n := range k.n {
			wk.Range(parts*k.size, 16*k.outs*(k.channels/parts), func(lo, hi int) {
				for p := lo; p < hi; p++ {
					part, tap := p/k.size, p%k.size
					off := offset[2*(n*parts*k.size+p)*k.outs:]
					for o := range k.outs {
						py := float64(o/k.out[2]*k.stride[1]-k.before[1]+tap/k.kernel[2]*k.dilation[1]) + float64(off[o])
						px := float64(o%k.out[2]*k.stride[2]-k.before[2]+tap%k.kernel[2]*k.dilation[2]) + float64(off[k.outs+o])
						four := inside(h, w, py, px)
						if mask != nil {
							for i := range four {
								four[i].weight *= float64(mask[(n*parts*k.size+p)*k.outs+o])
							}
						}
						for ch := part * (k.channels / parts); ch < (part+1)*(k.channels/parts); ch++ {
							plane, v := img[(n*k.channels+ch)*k.ins:][:k.ins], 0.0
							for _, q := range four {
								v += float64(float64(plane[q.at]) * q.weight)
							}
							col[(ch*k.size+tap)*k.outs+o] = T(v)
						}
					}
				}
			})
			for g := range k.groups {
				dst := y[(n*k.groups+g)*maps*k.outs:][:maps*k.outs]
				a, src := weights[g*maps*depth*k.size:][:maps*depth*k.size], col[g*depth*k.size*k.outs:][:depth*k.size*k.outs]
				if err := multiplyFloat(wk, kernels.NN, dst, a, src, maps, k.outs, depth*k.size); err != nil {
					return err
				}
				if bias != nil {
					addBias(dst, bias[g*maps:(g+1)*maps], k.outs)
				}
			}
		}
		return nil
	}
	return s, nil
}

// inside finds the four pixels around a place; those outside of the image weigh nothing.
func inside(h, w int, y, x float64) (four [4]corner) {
	if !(y > -1 && y < float64(h) && x > -1 && x < float64(w)) {
		return four
	}
	y0, x0 := math.Floor(y), math.Floor(x)
	fy, fx := y-y0, x-x0
	for i := range four {
		py, px := int(y0)+i/2, int(x0)+i%2
		weight := [2]float64{1 - fy, fy}[i/2] * [2]float64{1 - fx, fx}[i%2]
		if py >= 0 && py < h && px >= 0 && px < w {
			four[i] = corner{py*w + px, weight}
		}
	}
	return four
}

// box is a rectangle.
type box struct{ y0, x0, y1, x1 float32 }

// overlap is the area that two boxes share, of the area that they cover.
func overlap(a, b box) float32 {
	h, w := min(a.y1, b.y1)-max(a.y0, b.y0), min(a.x1, b.x1)-max(a.x0, b.x0)
	if h <= 0 || w <= 0 {
		return 0
	}
	one, two := (a.y1-a.y0)*(a.x1-a.x0), (b.y1-b.y0)*(b.x1-b.x0)
	common := float32(h * w)
	if one <= 0 || two <= 0 {
		return 0
	}
	return common / (one + two - common)
}

// planNonMax picks, for every class of every image, the boxes with the best scores that do not overlap much with
// better ones. How many there are depends on the values.
func planNonMax(c *Call) (Step, error) {
	boxes, err := c.Need(0)
	if err != nil {
		return Step{}, err
	}
	scores, err := c.Need(1)
	if err != nil {
		return Step{}, err
	}
	b, s := boxes.Shape, scores.Shape
	if len(b) != 3 || len(s) != 3 || b[2] != 4 || s[0] != b[0] || s[2] != b[1] || boxes.Type != graph.Float32 || scores.Type != graph.Float32 {
		return Step{}, c.Fault("boxes %s %v, scores %s %v", boxes.Type, b, scores.Type, s)
	}
	most := 0
	if c.Has(2) {
		if most, err = oneInt(c, 2); err != nil {
			return Step{}, err
		}
	}
	limits := [2]float32{0, float32(math.Inf(-1))}
	for i := range limits {
		if !c.Has(3 + i) {
			continue
		}
		t, err := c.Need(3 + i)
		if err != nil {
			return Step{}, err
		}
		if t.Type != graph.Float32 || t.Elems() != 1 {
			return Step{}, c.Fault("input %d is %s %v", 3+i, t.Type, t.Shape)
		}
		limits[i] = graph.Of[float32](t)[0]
	}
	x, score := graph.Of[float32](boxes), graph.Of[float32](scores)
	centred := c.Node.Int("center_point_box", 0) != 0
	at := func(i int) box {
		v := x[4*i : 4*i+4]
		if centred {
			return box{v[1] - v[3]/2, v[0] - v[2]/2, v[1] + v[3]/2, v[0] + v[2]/2}
		}
		return box{min(v[0], v[2]), min(v[1], v[3]), max(v[0], v[2]), max(v[1], v[3])}
	}
	var picked []int64
	for class := range s[0] * s[1] {
		image, row := class/s[1], score[class*s[2]:(class+1)*s[2]]
		var order []int
		for i, v := range row {
			if v > limits[1] || !c.Has(4) {
				order = append(order, i)
			}
		}
		slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(row[j], row[i]) })
		var kept []box
		for _, i := range order {
			if len(kept) >= most {
				break
			}
			now := at(image*s[2] + i)
			if !slices.ContainsFunc(kept, func(k box) bool { return overlap(now, k) > limits[0] }) {
				kept = append(kept, now)
				picked = append(picked, int64(image), int64(class%s[1]), int64(i))
			}
		}
	}
	return Step{Out: []Spec{Out(graph.Int64, len(picked)/3, 3)}, Run: func(_ *Worker, _, out []*graph.Tensor) error {
		copy(graph.Of[int64](out[0]), picked)
		return nil
	}}, nil
}
