package media

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// Sound is a recording: samples of -1 to 1, those of all channels at one time beside each other.
type Sound struct {
	Rate, Channels int
	Samples        []float32
}

// Reasons why a file is no sound that pare reads.
var (
	ErrWAV      = errors.New("not a WAV file")
	ErrEncoding = errors.New("samples of an encoding that pare does not read: PCM of 8 to 32 bits and floats are read")
)

// maxSound bounds a recording: 2 GiB of samples in memory.
const maxSound = 1 << 29

// ReadWAV reads a RIFF/WAVE file of size bytes: PCM of 8, 16, 24 and 32 bits, floats of 32 and 64 bits. An
// integer s of b bits is s / 2^(b-1), one of 8 bits (s-128) / 128.
func ReadWAV(r io.ReaderAt, size int64) (*Sound, error) {
	head := make([]byte, 12)
	if n, _ := r.ReadAt(head, 0); n < 12 || string(head[:4]) != "RIFF" || string(head[8:]) != "WAVE" {
		return nil, ErrWAV
	}
	var format [24 + 16]byte // of the chunk "fmt ", as far as it goes
	got := 0
	for at := int64(12); at+8 <= size; {
		var c [8]byte
		if _, err := r.ReadAt(c[:], at); err != nil {
			return nil, err
		}
		name, length := string(c[:4]), int64(binary.LittleEndian.Uint32(c[4:]))
		at += 8
		// programs that stream leave the length of the last chunk open
		length = min(length, size-at)
		switch name {
		case "fmt ":
			got = int(min(length, int64(len(format))))
			if _, err := r.ReadAt(format[:got], at); err != nil {
				return nil, err
			}
		case "data":
			if got < 16 {
				return nil, fmt.Errorf("%w: samples before their format", ErrWAV)
			}
			return samples(r, at, length, format[:got])
		}
		at += length + length&1
	}
	return nil, fmt.Errorf("%w: it has no samples", ErrWAV)
}

func samples(r io.ReaderAt, at, length int64, format []byte) (*Sound, error) {
	le := binary.LittleEndian
	kind, bits := le.Uint16(format), int(le.Uint16(format[14:]))
	s := &Sound{Rate: int(le.Uint32(format[4:])), Channels: int(le.Uint16(format[2:]))}
	if kind == 0xFFFE && len(format) >= 26 { // extensible: the kind begins the identifier at its end
		kind = le.Uint16(format[24:])
	}
	var read func(b []byte) float32
	switch {
	case kind == 1 && bits == 8:
		read = func(b []byte) float32 { return (float32(b[0]) - 128) / 128 }
	case kind == 1 && bits == 16:
		read = func(b []byte) float32 { return float32(int16(le.Uint16(b))) / (1 << 15) }
	case kind == 1 && bits == 24:
		read = func(b []byte) float32 {
			return float32(int32(uint32(b[0])<<8|uint32(b[1])<<16|uint32(b[2])<<24)>>8) / (1 << 23)
		}
	case kind == 1 && bits == 32:
		read = func(b []byte) float32 { return float32(float64(int32(le.Uint32(b))) / (1 << 31)) }
	case kind == 3 && bits == 32:
		read = func(b []byte) float32 { return math.Float32frombits(le.Uint32(b)) }
	case kind == 3 && bits == 64:
		read = func(b []byte) float32 { return float32(math.Float64frombits(le.Uint64(b))) }
	default:
		return nil, fmt.Errorf("%w: format %d, %d bits", ErrEncoding, kind, bits)
	}
	if s.Channels < 1 || s.Rate < 1 {
		return nil, fmt.Errorf("%w: %d channels at %d Hz", ErrWAV, s.Channels, s.Rate)
	}
	width := bits / 8
	frames := length / int64(width*s.Channels)
	if frames*int64(s.Channels) > maxSound {
		return nil, fmt.Errorf("%w: %d samples are too many", ErrWAV, frames*int64(s.Channels))
	}
	s.Samples = make([]float32, frames*int64(s.Channels))
	in := io.NewSectionReader(r, at, length)
	buf := make([]byte, width<<12)
	for i := 0; i < len(s.Samples); {
		b := buf[:min(len(buf), width*(len(s.Samples)-i))]
		if _, err := io.ReadFull(in, b); err != nil {
			return nil, err
		}
		for ; len(b) > 0; b = b[width:] {
			s.Samples[i] = read(b)
			i++
		}
	}
	return s, nil
}

// Mono is the mean of all channels.
func (s *Sound) Mono() []float32 {
	if s.Channels == 1 {
		return s.Samples
	}
	out := make([]float32, len(s.Samples)/s.Channels)
	for i := range out {
		sum := 0.0
		for _, v := range s.Samples[i*s.Channels : (i+1)*s.Channels] {
			sum += float64(v)
		}
		out[i] = float32(sum / float64(s.Channels))
	}
	return out
}
