// Package media decodes pictures and sounds into numbers: PNG, JPEG, GIF, BMP and WebP into planes of 0..255,
// WAV into samples of -1..1. Resizing has one stated formula and gives the same numbers on every machine.
package media

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/gif" // decoders register themselves
	_ "image/jpeg"
	_ "image/png"
	"io"

	_ "golang.org/x/image/bmp"
	_ "golang.org/x/image/webp"
)

// Picture is planes of values 0..255, each [Height, Width] row-major: red, green and blue, or one of gray.
type Picture struct {
	Width, Height int
	Planes        [][]float32
}

// Reasons why a file is no picture.
var (
	ErrImage = errors.New("not a picture that pare reads: PNG, JPEG, GIF, BMP and WebP are read")
	ErrLarge = errors.New("the picture is too large")
)

// maxPixels bounds what is decoded: a header of a few bytes may claim any size.
const maxPixels = 1 << 25

// ReadPicture decodes the first picture of a file. Colours are taken as they are stored: what is transparent keeps
// its colour, and no colour profile is applied. Values of 16 bits are divided by 257.
func ReadPicture(r io.Reader) (p *Picture, err error) {
	defer func() { // decoders of others have panicked on damaged files before
		if bug := recover(); bug != nil {
			p, err = nil, fmt.Errorf("%w: %v", ErrImage, bug)
		}
	}()
	in := bufio.NewReaderSize(r, 1<<16)
	var head bytes.Buffer
	c, _, err := image.DecodeConfig(io.TeeReader(in, &head))
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrImage, err)
	}
	if c.Width <= 0 || c.Height <= 0 {
		return nil, fmt.Errorf("%w: %dx%d pixels", ErrImage, c.Width, c.Height)
	}
	if c.Width > maxPixels/c.Height {
		return nil, fmt.Errorf("%w: %dx%d pixels", ErrLarge, c.Width, c.Height)
	}
	m, _, err := image.Decode(io.MultiReader(&head, in))
	if err != nil {
		return nil, fmt.Errorf("%w (%w)", ErrImage, err)
	}
	return fromImage(m), nil
}

func fromImage(m image.Image) *Picture {
	b := m.Bounds()
	p := &Picture{Width: b.Dx(), Height: b.Dy()}
	n := p.Width * p.Height
	planes := 3
	switch m.(type) {
	case *image.Gray, *image.Gray16:
		planes = 1
	}
	for range planes {
		p.Planes = append(p.Planes, make([]float32, n))
	}
	i := 0
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			if planes == 1 {
				g, _, _, _ := m.At(x, y).RGBA()
				p.Planes[0][i] = float32(g) / 257
			} else {
				c := straight(m, x, y)
				p.Planes[0][i], p.Planes[1][i], p.Planes[2][i] = float32(c.R)/257, float32(c.G)/257, float32(c.B)/257
			}
			i++
		}
	}
	return p
}

// straight is a pixel's colour, not multiplied by how opaque it is.
func straight(m image.Image, x, y int) color.NRGBA64 {
	switch m := m.(type) {
	case *image.NRGBA:
		c := m.NRGBAAt(x, y)
		return color.NRGBA64{R: uint16(c.R) * 257, G: uint16(c.G) * 257, B: uint16(c.B) * 257}
	case *image.NRGBA64:
		return m.NRGBA64At(x, y)
	}
	return color.NRGBA64Model.Convert(m.At(x, y)).(color.NRGBA64)
}

// Gray is the picture in one plane: (299 R + 587 G + 114 B) / 1000, as ITU-R BT.601 weighs colours.
func (p *Picture) Gray() *Picture {
	if len(p.Planes) == 1 {
		return p
	}
	out := &Picture{Width: p.Width, Height: p.Height, Planes: [][]float32{make([]float32, len(p.Planes[0]))}}
	for i := range out.Planes[0] {
		out.Planes[0][i] = float32((299*float64(p.Planes[0][i]) + 587*float64(p.Planes[1][i]) + 114*float64(p.Planes[2][i])) / 1000)
	}
	return out
}

// Color is the picture in three planes.
func (p *Picture) Color() *Picture {
	if len(p.Planes) == 3 {
		return p
	}
	g := p.Planes[0]
	return &Picture{Width: p.Width, Height: p.Height, Planes: [][]float32{g, g, g}}
}

// Cut is a part of the picture; what lies outside of it is fill.
func (p *Picture) Cut(left, top, width, height int, fill float32) *Picture {
	out := &Picture{Width: width, Height: height}
	for _, in := range p.Planes {
		plane := make([]float32, width*height)
		for y := range height {
			for x := range width {
				sx, sy := x+left, y+top
				if sx < 0 || sy < 0 || sx >= p.Width || sy >= p.Height {
					plane[y*width+x] = fill
				} else {
					plane[y*width+x] = in[sy*p.Width+sx]
				}
			}
		}
		out.Planes = append(out.Planes, plane)
	}
	return out
}
