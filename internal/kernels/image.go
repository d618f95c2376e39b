package kernels

import "fmt"

// Pixels is a view of an image whose channels lie together (NHWC): pixel (y,x) is the C numbers at
// Data[y*Row + x*Pixel]. Rows may be farther apart than their pixels take, and pixels farther than their
// channels, so that a view can be a part of a larger image or some channels of it.
type Pixels[T any] struct {
	Data       []T
	H, W, C    int
	Row, Pixel int
}

// Image is an image of floats.
type Image = Pixels[float32]

// NewImage is a view of adjacent pixels over data, which holds h*w*c numbers or more.
func NewImage[T any](data []T, h, w, c int) Pixels[T] { return Pixels[T]{data, h, w, c, w * c, c} }

// At is the view that begins at pixel (y,x) and is h rows high and w pixels wide.
func (m Pixels[T]) At(y, x, h, w int) Pixels[T] {
	if y < 0 || x < 0 || h < 0 || w < 0 || y+h > m.H || x+w > m.W {
		panic(fmt.Sprintf("kernels: part %dx%d at %d,%d of an image of %dx%d", h, w, y, x, m.H, m.W))
	}
	if h == 0 || w == 0 {
		return Pixels[T]{nil, h, w, m.C, m.Row, m.Pixel}
	}
	return Pixels[T]{m.Data[y*m.Row+x*m.Pixel:], h, w, m.C, m.Row, m.Pixel}
}

// Channels is the view of channels [lo,hi).
func (m Pixels[T]) Channels(lo, hi int) Pixels[T] {
	if lo < 0 || hi < lo || hi > m.C {
		panic(fmt.Sprintf("kernels: channels [%d:%d] of %d", lo, hi, m.C))
	}
	if m.H > 0 && m.W > 0 && hi > lo {
		m.Data = m.Data[lo:]
	}
	m.C = hi - lo
	return m
}

// need is how many numbers a view takes whose pixels have c of them.
func (m Pixels[T]) need(c int) int {
	if m.H == 0 || m.W == 0 || c == 0 {
		return 0
	}
	return (m.H-1)*m.Row + (m.W-1)*m.Pixel + c
}

func (m Pixels[T]) check(name string) {
	if m.H < 0 || m.W < 0 || m.C < 0 || m.Row < 0 || m.Pixel < 0 || len(m.Data) < m.need(m.C) {
		panic(fmt.Sprintf("kernels: %s is %dx%dx%d with strides %d and %d over %d numbers", name, m.H, m.W, m.C, m.Row, m.Pixel, len(m.Data)))
	}
}
