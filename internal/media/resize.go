package media

import (
	"math"
	"slices"
)

// Filter says how pixels of another size are computed.
type Filter string

// Filters. Pixels are areas: pixel i of n covers [i, i+1) of n, and its centre is i + 1/2 (align_corners false,
// "half pixel" of ONNX Resize).
const (
	// Auto is Area along an axis that becomes shorter, Bilinear along one that becomes longer.
	Auto Filter = "auto"
	// Bilinear takes the two pixels around (i + 1/2) * in/out - 1/2, those of the edge repeated: no more of
	// them when a picture becomes smaller.
	Bilinear Filter = "bilinear"
	// Area is the mean over [i, i+1) * in/out.
	Area Filter = "area"
	// Nearest is pixel floor((i + 1/2) * in/out).
	Nearest Filter = "nearest"
)

// Filters lists the filters.
func Filters() []Filter { return []Filter{Auto, Bilinear, Area, Nearest} }

// taps are the pixels that one pixel of the result is made of, and their weights.
type taps struct {
	first   int
	weights []float64
}

func axis(in, out int, f Filter) []taps {
	list := make([]taps, out)
	scale := float64(in) / float64(out)
	if f == Auto || f == "" {
		if f = Bilinear; out < in {
			f = Area
		}
	}
	for i := range list {
		switch f {
		case Nearest:
			list[i] = taps{min(in-1, int((float64(i)+0.5)*scale)), []float64{1}}
		case Area:
			lo, hi := float64(i)*scale, float64(i+1)*scale
			first := min(in-1, int(lo))
			t := taps{first: first}
			for k := first; k < in && float64(k) < hi; k++ {
				t.weights = append(t.weights, (min(hi, float64(k+1))-max(lo, float64(k)))/scale)
			}
			list[i] = t
		default:
			at := min(max((float64(i)+0.5)*scale-0.5, 0), float64(in-1))
			first := int(math.Floor(at))
			if right := at - float64(first); right > 0 && first+1 < in {
				list[i] = taps{first, []float64{1 - right, right}}
			} else {
				list[i] = taps{first, []float64{1}}
			}
		}
	}
	return list
}

// Resize gives the picture another size: along rows first, then along columns, sums in float64 and in order.
func (p *Picture) Resize(width, height int, f Filter) *Picture {
	if width == p.Width && height == p.Height {
		return p
	}
	out := &Picture{Width: width, Height: height}
	across, down := axis(p.Width, width, f), axis(p.Height, height, f)
	for _, in := range p.Planes {
		rows := make([]float32, p.Height*width)
		for y := range p.Height {
			for x, t := range across {
				sum := 0.0
				for k, w := range t.weights {
					sum += float64(w * float64(in[y*p.Width+t.first+k]))
				}
				rows[y*width+x] = float32(sum)
			}
		}
		plane := make([]float32, height*width)
		for y, t := range down {
			for x := range width {
				sum := 0.0
				for k, w := range t.weights {
					sum += float64(w * float64(rows[(t.first+k)*width+x]))
				}
				plane[y*width+x] = float32(sum)
			}
		}
		out.Planes = append(out.Planes, plane)
	}
	return out
}

// ShorterSide is the size whose shorter side has n pixels, the longer one rounded down as torchvision does.
func (p *Picture) ShorterSide(n int) (width, height int) {
	if p.Width < p.Height {
		return n, int(int64(n) * int64(p.Height) / int64(p.Width))
	}
	return int(int64(n) * int64(p.Width) / int64(p.Height)), n
}

// FilterNames lists the filters as words.
func FilterNames() (names []string) {
	for _, f := range Filters() {
		names = append(names, string(f))
	}
	return slices.Clip(names)
}
