package distill

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"

	"github.com/pare-dev/pare/internal/fault"
)

// stateMagic begins a file of a training in progress.
const stateMagic = "pare-distill-1\n"

// stateHead follows it.
type stateHead struct{ Step, Epoch, At, Params, Weights, Points int64 }

// Save writes where the training stands: weights, moments, the place in the text and the curve so far. The
// file appears whole. From it Resume goes on to the same bits.
func (t *Trainer) Save(path string, curve []Point) (err error) {
	f, err := os.Create(path + ".part")
	if err != nil {
		return err
	}
	defer f.Close()
	sum := crc32.NewIEEE()
	b := bufio.NewWriterSize(io.MultiWriter(f, sum), 1<<20)
	write := func(v any) {
		if err == nil {
			err = binary.Write(b, binary.LittleEndian, v)
		}
	}
	write([]byte(stateMagic))
	write(stateHead{int64(t.step), int64(t.epoch), int64(t.at), int64(len(t.trained)), t.weights(), int64(len(curve))})
	write(curvePoints(curve))
	buf := make([]byte, 0, 4*adamChunk)
	floats := func(x []float32) {
		for lo := 0; lo < len(x) && err == nil; lo += adamChunk {
			buf = buf[:0]
			for _, v := range x[lo:min(lo+adamChunk, len(x))] {
				buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
			}
			_, err = b.Write(buf)
		}
	}
	for i, p := range t.trained {
		floats(p.W)
		floats(t.opt.state[i].m)
		floats(t.opt.state[i].v)
	}
	if err == nil {
		err = b.Flush()
	}
	if err == nil {
		err = binary.Write(f, binary.LittleEndian, sum.Sum32())
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return &fault.Error{File: path, Op: "write", Err: err}
	}
	return os.Rename(path+".part", path)
}

func (t *Trainer) weights() (n int64) {
	for _, p := range t.trained {
		n += int64(len(p.W))
	}
	return n
}

// fixedPoint is a Point as it lies in the file.
type fixedPoint struct {
	Step, Tokens                                        int64
	Loss, Divergence, CrossEntropy, Rate, Norm, Seconds float64
}

func curvePoints(c []Point) []fixedPoint {
	out := make([]fixedPoint, len(c))
	for i, p := range c {
		out[i] = fixedPoint{int64(p.Step), p.Tokens, p.Loss, p.Divergence, p.CrossEntropy, p.Rate, p.Norm, p.Seconds}
	}
	return out
}

// Resume goes on where a saved training of the same model, text and options stood. It returns the curve
// so far, nil when there is no file or it is not whole or of another training.
func (t *Trainer) Resume(path string) ([]Point, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil //nolint:nilerr // from the beginning
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	var h stateHead
	magic := make([]byte, len(stateMagic))
	head := io.NewSectionReader(f, 0, st.Size())
	if _, err := io.ReadFull(head, magic); err != nil || string(magic) != stateMagic {
		return nil, nil //nolint:nilerr // something else, or cut short
	}
	if err := binary.Read(head, binary.LittleEndian, &h); err != nil {
		return nil, nil //nolint:nilerr // cut short
	}
	size := int64(len(stateMagic)+binary.Size(h)) + h.Points*int64(binary.Size(fixedPoint{})) + 12*t.weights() + 4
	if h.Params != int64(len(t.trained)) || h.Weights != t.weights() || h.Points < 0 || h.Points > 1<<20 || size != st.Size() || h.Step < 0 || h.Step > int64(t.steps) || h.At < 0 || h.At > int64(len(t.text.IDs)) {
		return nil, nil
	}
	if ok, err := whole(f, st.Size()); err != nil || !ok {
		return nil, err
	}
	fixed := make([]fixedPoint, h.Points)
	b := bufio.NewReaderSize(head, 1<<20)
	if err := binary.Read(b, binary.LittleEndian, fixed); err != nil {
		return nil, err
	}
	t.opt.state = nil
	for _, p := range t.trained {
		m := moments{make([]float32, len(p.W)), make([]float32, len(p.W))}
		for _, x := range [][]float32{p.W, m.m, m.v} {
			if err := binary.Read(b, binary.LittleEndian, x); err != nil {
				return nil, err
			}
		}
		t.opt.state = append(t.opt.state, m)
	}
	t.step, t.opt.step, t.epoch, t.at = int(h.Step), int(h.Step), int(h.Epoch), int(h.At)
	t.shuffle()
	if n := len(fixed); n > 0 {
		t.tokens = fixed[n-1].Tokens
	}
	curve := make([]Point, len(fixed))
	for i, p := range fixed {
		curve[i] = Point{int(p.Step), p.Tokens, p.Loss, p.Divergence, p.CrossEntropy, p.Rate, p.Norm, p.Seconds}
	}
	return curve, nil
}

// whole checks the sum at the end of a file.
func whole(f *os.File, size int64) (bool, error) {
	sum := crc32.NewIEEE()
	if _, err := io.Copy(sum, io.NewSectionReader(f, 0, size-4)); err != nil {
		return false, fmt.Errorf("%s: %w", f.Name(), err)
	}
	var want uint32
	if err := binary.Read(io.NewSectionReader(f, size-4, 4), binary.LittleEndian, &want); err != nil {
		return false, err
	}
	return sum.Sum32() == want, nil
}
