package samples

import (
	"fmt"
	"math"
	"os"

	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/media"
	"github.com/pare-dev/pare/ir/graph"
	"github.com/pare-dev/pare/targets/recipe"
)

// frame is how a picture lies in an input.
type frame struct {
	width, height, channels int // 0: that of the picture
	last                    bool
	shape                   func(w, h, c int) []int
}

// image makes one sample of a picture.
func (in *input) image(path string) (item, error) {
	f, err := in.frame()
	if err != nil {
		return item{}, err
	}
	return item{name: path, n: 1, open: func() (loaded, error) {
		return loaded{read: func(int) (*graph.Tensor, error) {
			file, err := os.Open(path)
			if err != nil {
				return nil, err
			}
			defer file.Close()
			p, err := media.ReadPicture(file)
			if err != nil {
				return nil, &fault.Error{File: path, Op: "input " + in.v.Name, Err: err}
			}
			return in.picture(p, f)
		}}, nil
	}}, nil
}

// frame finds where in the shape width, height and channels are.
func (in *input) frame() (f frame, err error) {
	s, h := in.shape, in.how
	r := len(s)
	if s == nil || r < 2 || r > 4 {
		return f, wrong(in.v, "a picture is [height, width], with an axis of channels and one of 1 around; the input is %s", in.v.Shape.Text())
	}
	if r == 4 && s[0] > 1 {
		return f, wrong(in.v, "the input takes %d pictures at once: give an array", s[0])
	}
	lead := max(0, r-3)
	few := func(n int) bool { return n == 1 || n == 3 }
	f.last = h.Layout == "nhwc" || h.Layout == "" && r > 2 && !few(s[lead]) && few(s[r-1])
	c, y, x := lead, lead+1, lead+2
	if f.last {
		c, y, x = lead+2, lead, lead+1
	}
	if r == 2 {
		c, y, x = -1, 0, 1
		f.channels = 1
	} else {
		f.channels = max(0, s[c])
	}
	f.height, f.width = max(0, s[y]), max(0, s[x])
	for _, size := range []struct {
		name       string
		want, have int
		set        *int
	}{{"width", h.Width, f.width, &f.width}, {"height", h.Height, f.height, &f.height}} {
		if size.want > 0 && size.have > 0 && size.want != size.have {
			return f, wrong(in.v, "%s = %d does not fit: the input is %s", size.name, size.want, in.v.Shape.Text())
		}
		if size.want > 0 {
			*size.set = size.want
		}
	}
	if f.channels == 0 {
		if f.channels = 3; h.Channels == "gray" {
			f.channels = 1
		}
	}
	if !few(f.channels) || h.Channels == "gray" && f.channels == 3 || h.Channels != "" && h.Channels != "gray" && f.channels == 1 {
		return f, wrong(in.v, "the input has %d channels in %s: pictures have 3, or 1 of gray", f.channels, in.v.Shape.Text())
	}
	for _, list := range [][]recipe.Ratio{h.Mean, h.Std} {
		if n := len(list); n > 1 && n != f.channels {
			return f, wrong(in.v, "%d numbers for %d channels in mean or std", n, f.channels)
		}
	}
	for _, v := range h.Std {
		if v == 0 {
			return f, wrong(in.v, "std is 0")
		}
	}
	f.shape = func(width, height, channels int) []int {
		out := make([]int, r)
		for i := range lead {
			out[i] = 1
		}
		if c >= 0 {
			out[c] = channels
		}
		out[y], out[x] = height, width
		return out
	}
	return f, nil
}

// picture makes a tensor of a picture.
func (in *input) picture(p *media.Picture, f frame) (*graph.Tensor, error) {
	h := in.how
	if f.channels == 1 {
		p = p.Gray()
	} else {
		p = p.Color()
	}
	p = fit(p, f.width, f.height, h)
	t := graph.New(graph.Float32, f.shape(p.Width, p.Height, f.channels)...)
	out := graph.Of[float32](t)
	n := p.Width * p.Height
	for c := range f.channels {
		from := c
		if h.Channels == "bgr" {
			from = f.channels - 1 - c
		}
		for i, v := range p.Planes[from] {
			at := c*n + i
			if f.last {
				at = i*f.channels + c
			}
			out[at] = normal(v, c, h)
		}
	}
	return in.numbers(t)
}

// fit brings a picture to a size; 0 is that of the picture.
func fit(p *media.Picture, width, height int, h recipe.Preprocess) *media.Picture {
	f := media.Filter(h.Filter)
	if width == 0 && height == 0 && h.Resize > 0 {
		w, hi := p.ShorterSide(h.Resize)
		return p.Resize(w, hi, f)
	}
	if width == 0 {
		width = p.Width
	}
	if height == 0 {
		height = p.Height
	}
	switch h.Fit {
	case "crop":
		w, hi := p.ShorterSide(max(h.Resize, 1))
		if w < width || hi < height { // no larger than what fills the size
			k := max(float64(width)/float64(p.Width), float64(height)/float64(p.Height))
			w, hi = max(width, int(math.Round(k*float64(p.Width)))), max(height, int(math.Round(k*float64(p.Height))))
		}
		return p.Resize(w, hi, f).Cut((w-width)/2, (hi-height)/2, width, height, 0)
	case "pad":
		k := min(float64(width)/float64(p.Width), float64(height)/float64(p.Height))
		w, hi := min(width, max(1, int(math.Round(k*float64(p.Width))))), min(height, max(1, int(math.Round(k*float64(p.Height)))))
		return p.Resize(w, hi, f).Cut((w-width)/2, (hi-height)/2, width, height, 0)
	}
	return p.Resize(width, height, f)
}

// normal is (v * scale - mean) / std of channel c, as the input has it; rounded to float32 once.
func normal(v float32, c int, h recipe.Preprocess) float32 {
	x := float64(v)
	if h.Scale != nil {
		x *= float64(*h.Scale)
	}
	at := func(list []recipe.Ratio) float64 {
		if len(list) == 1 {
			return float64(list[0])
		}
		return float64(list[c])
	}
	if len(h.Mean) > 0 {
		x -= at(h.Mean)
	}
	if len(h.Std) > 0 {
		x /= at(h.Std)
	}
	return float32(x)
}

// numbers gives values that were computed the type of the input; integers take the nearest.
func (in *input) numbers(t *graph.Tensor) (*graph.Tensor, error) {
	if !in.v.Type.Integer() {
		return cast(t, in.v.Type)
	}
	lo, hi := extent(in.v.Type)
	list := make([]int64, t.Elems())
	for i, v := range graph.Of[float32](t) {
		x := math.RoundToEven(float64(v))
		if !(x >= float64(lo) && x <= float64(hi)) {
			return nil, fault.As(fault.ErrMisuse, fmt.Errorf("%w: %g is no %s", ErrType, v, in.v.Type))
		}
		list[i] = int64(x)
	}
	return cast(graph.From(graph.Int64, list, t.Shape...), in.v.Type)
}
