// Package synth writes synthetic models: llama-shaped GGUF files of any size whose every byte follows
// from a seed, for measurements that must not depend on what can be downloaded. The weights are
// normally distributed like those of a freshly initialised model, so quantizers and kernels meet the
// value ranges that they were made for; what the model says means nothing.
package synth

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/pare-dev/pare/formats/gguf"
	"github.com/pare-dev/pare/internal/fault"
	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
)

// Shape is the architecture of a model.
type Shape struct {
	Embed, Layers, FF, Heads, KVHeads, Vocab, Context int
}

// Llama1B is TinyLlama's shape: 1.10 billion weights, 2.2 GB in float16.
var Llama1B = Shape{Embed: 2048, Layers: 22, FF: 5632, Heads: 32, KVHeads: 4, Vocab: 32000, Context: 2048}

// Params counts the weights.
func (s Shape) Params() int64 {
	n := int64(0)
	for _, t := range s.tensors(storage.F16) {
		n += elements(t)
	}
	return n
}

const (
	sigma     = 0.02 // standard deviation of the weights
	normSigma = 0.05 // of the norms' weights around 1
	bandBytes = 32 << 20
)

// Write makes the file. typ is the type of the matrices: storage.F32, F16 or BF16; norms are float32.
// The same arguments give the same bytes, whatever the number of threads.
func Write(ctx context.Context, path string, s Shape, typ storage.Type, seed uint64, threads int) (err error) {
	fail := func(err error) error { return &fault.Error{File: path, Op: "synthesize", Err: err} }
	if err := s.check(); err != nil {
		return fail(err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".synth-*")
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = s.write(ctx, f, typ, seed, threads)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err != nil {
		return fail(err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fail(err)
	}
	return nil
}

func (s Shape) check() error {
	switch {
	case s.Embed <= 0 || s.Layers <= 0 || s.FF <= 0 || s.Heads <= 0 || s.KVHeads <= 0 || s.Context <= 0:
		return fmt.Errorf("every dimension of %+v must be positive", s)
	case s.Embed%s.Heads != 0 || s.Heads%s.KVHeads != 0:
		return fmt.Errorf("%d numbers do not make %d heads over %d key heads", s.Embed, s.Heads, s.KVHeads)
	case s.Vocab < firstText || s.Vocab > mostTokens:
		return fmt.Errorf("a vocabulary has %d to %d tokens, not %d", firstText, mostTokens, s.Vocab)
	}
	return nil
}

func (s Shape) write(ctx context.Context, out io.Writer, typ storage.Type, seed uint64, threads int) error {
	tensors := s.tensors(typ)
	w, err := gguf.NewWriter(out, s.metadata(typ), tensors)
	if err != nil {
		return err
	}
	matrix, err := newTable(typ, 0, sigma)
	if err != nil {
		return err
	}
	norm, err := newTable(storage.F32, 1, normSigma)
	if err != nil {
		return err
	}
	buf := make([]byte, bandBytes)
	for _, t := range tensors {
		table := matrix
		if len(t.Shape) == 1 {
			table = norm
		}
		if err := table.stream(ctx, w, keyOf(seed, t.Name), elements(t), buf, threads); err != nil {
			return err
		}
	}
	return w.Close()
}

func elements(t gguf.Tensor) int64 {
	n := int64(1)
	for _, d := range t.Shape {
		n *= int64(d)
	}
	return n
}

// keyOf is where the random numbers of a tensor start: tensors differ, and stay as they are when
// others are added.
func keyOf(seed uint64, name string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name) // never fails
	return mix(seed ^ h.Sum64())
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014): a bijection that makes neighbouring
// counters independent.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// table holds the quantiles (k+1/2)/65536 of a normal distribution, encoded: sixteen random bits
// choose one, so a 64-bit number makes four weights at the speed of memory.
type table struct {
	width int
	code  []byte
}

func newTable(typ storage.Type, mean, deviation float64) (*table, error) {
	t := &table{}
	switch typ {
	case storage.F32:
		t.width = 4
	case storage.F16, storage.BF16:
		t.width = 2
	default:
		return nil, fmt.Errorf("matrices of %s: f32, f16 and bf16 can be made", typ)
	}
	t.code = make([]byte, t.width<<16)
	le := binary.LittleEndian
	for k := range 1 << 16 {
		v := float32(mean + deviation*math.Sqrt2*math.Erfinv((float64(k)+0.5)/(1<<15)-1))
		switch p := t.code[k*t.width:]; typ {
		case storage.F32:
			le.PutUint32(p, math.Float32bits(v))
		case storage.F16:
			le.PutUint16(p, storage.F32ToF16(v))
		default:
			le.PutUint16(p, storage.F32ToBF16(v))
		}
	}
	return t, nil
}

// stream writes n numbers in bands: the buffer is filled on all threads, then written.
func (t *table) stream(ctx context.Context, w io.Writer, key uint64, n int64, buf []byte, threads int) error {
	const grain = 1 << 16 // numbers, a multiple of 4
	band := int64(len(buf) / t.width / grain * grain)
	for at := int64(0); at < n; at += band {
		count := min(band, n-at)
		err := par.Range(ctx, threads, int(count), grain, func(_, lo, hi int) error {
			t.fill(buf[lo*t.width:hi*t.width], key, uint64(at)+uint64(lo))
			return nil
		})
		if err != nil {
			return err
		}
		if _, err := w.Write(buf[:count*int64(t.width)]); err != nil {
			return err
		}
	}
	return nil
}

// fill sets dst to the numbers from at, a multiple of 4, on.
func (t *table) fill(dst []byte, key, at uint64) {
	const golden = 0x9e3779b97f4a7c15 // SplitMix64's step
	for block := at / 4; len(dst) > 0; block++ {
		bits := mix(key + block*golden)
		if t.width == 2 && len(dst) >= 8 { // the case that gigabytes go through
			code := t.code
			dst[0], dst[1] = code[bits&0xffff*2], code[bits&0xffff*2+1]
			dst[2], dst[3] = code[bits>>16&0xffff*2], code[bits>>16&0xffff*2+1]
			dst[4], dst[5] = code[bits>>32&0xffff*2], code[bits>>32&0xffff*2+1]
			dst[6], dst[7] = code[bits>>48*2], code[bits>>48*2+1]
			dst = dst[8:]
			continue
		}
		for range 4 {
			if len(dst) == 0 {
				break
			}
			k := int(bits & 0xffff)
			dst = dst[copy(dst, t.code[k*t.width:(k+1)*t.width]):]
			bits >>= 16
		}
	}
}
