package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pare-dev/pare/internal/npy"
)

func floats(t *testing.T, name string) []float32 {
	t.Helper()
	a, err := npy.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := a.All()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]float32, len(b)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return out
}

func picture(t *testing.T, name string) *Picture {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := ReadPicture(f)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return p
}

// Pillow's files have Pillow's pixels; those of a JPEG may differ by the rounding of its transform.
func TestPictures(t *testing.T) {
	exact, jpg := floats(t, "color.npy"), floats(t, "jpg.npy")
	for name, c := range map[string]struct {
		want []float32
		off  float64
	}{"color.png": {exact, 0}, "color.bmp": {exact, 0}, "color.webp": {exact, 0}, "color.jpg": {jpg, 4}} {
		p := picture(t, name)
		if p.Width != 18 || p.Height != 12 || len(p.Planes) != 3 {
			t.Fatalf("%s: %dx%d", name, p.Width, p.Height)
		}
		for i, v := range c.want {
			if got := p.Planes[i%3][i/3]; math.Abs(float64(got-v)) > c.off {
				t.Fatalf("%s: pixel %d, channel %d is %v, want %v", name, i/3, i%3, got, v)
			}
		}
	}
	g := picture(t, "gray.png")
	if len(g.Planes) != 1 || g.Planes[0][18] != exact[18*3+1] {
		t.Errorf("gray: %d planes, %v", len(g.Planes), g.Planes[0][18])
	}
}

// Pillow's BOX is the mean over the area, its BILINEAR, where pictures grow, the line between two centres.
func TestResize(t *testing.T) {
	p := picture(t, "color.png")
	for name, size := range map[string][2]int{"area": {6, 4}, "bilinear": {40, 29}} {
		want := floats(t, name+".npy")
		for _, f := range []Filter{Filter(name), Auto} {
			got := p.Resize(size[0], size[1], f)
			for c := range 3 {
				for i, v := range got.Planes[c] {
					if w := want[c*len(got.Planes[c])+i]; math.Abs(float64(v-w)) > 1e-3 {
						t.Fatalf("%s by %s: channel %d, pixel %d is %v, want %v", name, f, c, i, v, w)
					}
				}
			}
		}
	}
	// the linear examples of ONNX Resize, opset 19: resize_upsample_scales_linear, and nearest by whole factors
	small := &Picture{Width: 2, Height: 2, Planes: [][]float32{{1, 2, 3, 4}}}
	want := []float32{1, 1.25, 1.75, 2, 1.5, 1.75, 2.25, 2.5, 2.5, 2.75, 3.25, 3.5, 3, 3.25, 3.75, 4}
	if got := small.Resize(4, 4, Bilinear).Planes[0]; !slices.Equal(got, want) {
		t.Errorf("linear: %v", got)
	}
	if got := small.Resize(4, 2, Nearest).Planes[0]; !slices.Equal(got, []float32{1, 1, 2, 2, 3, 3, 4, 4}) {
		t.Errorf("nearest: %v", got)
	}
}

func TestSounds(t *testing.T) {
	codes := []float32{-3, 0, 1, 100, -128, 127}
	for _, name := range []string{"pcm8", "pcm16", "pcm24", "pcm32", "float32", "float64"} {
		b, err := os.ReadFile(filepath.Join("testdata", name+".wav"))
		if err != nil {
			t.Fatal(err)
		}
		s, err := ReadWAV(bytes.NewReader(b), int64(len(b)))
		if err != nil || s.Rate != 8000 || s.Channels != 2 || len(s.Samples) != len(codes) {
			t.Fatalf("%s: %+v, %v", name, s, err)
		}
		for i, v := range s.Samples {
			if v != codes[i]/128 {
				t.Errorf("%s: sample %d is %v, want %v", name, i, v, codes[i]/128)
			}
		}
		if m := s.Mono(); !slices.Equal(m, []float32{-1.5 / 128, 50.5 / 128, -0.5 / 128}) {
			t.Errorf("%s: mono %v", name, m)
		}
		for n := range len(b) - 1 { // cut anywhere, it is refused or shorter
			if s, err := ReadWAV(bytes.NewReader(b[:n]), int64(n)); err == nil && len(s.Samples) >= len(codes) {
				t.Errorf("%s: %d bytes have all samples", name, n)
			}
		}
	}
}

func TestHostile(t *testing.T) {
	for name, file := range map[string]string{
		"empty": "", "no chunks": "RIFF\x00\x00\x00\x00WAVE", "samples first": "RIFF\x00\x00\x00\x00WAVEdata\x02\x00\x00\x00ab",
		"not sound": "RIFF\x00\x00\x00\x00AVI ", "no channels": "RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x00\x00\x40\x1f\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00data\x02\x00\x00\x00ab",
	} {
		if _, err := ReadWAV(strings.NewReader(file), int64(len(file))); !errors.Is(err, ErrWAV) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadPicture(strings.NewReader("GIF89a")); !errors.Is(err, ErrImage) {
		t.Error(err)
	}
	// a GIF of 65535 x 65535 pixels in 13 bytes
	if _, err := ReadPicture(strings.NewReader("GIF89a\xff\xff\xff\xff\x00\x00\x00")); !errors.Is(err, ErrLarge) {
		t.Error(err)
	}
}

func FuzzWAV(f *testing.F) {
	for _, name := range []string{"pcm24", "float64"} {
		b, err := os.ReadFile(filepath.Join("testdata", name+".wav"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ReadWAV(bytes.NewReader(b), int64(len(b))); err == nil && len(s.Samples) > len(b) {
			t.Fatalf("%d samples of %d bytes", len(s.Samples), len(b))
		}
	})
}
