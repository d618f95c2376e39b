package main

import (
	"bytes"
	"context"
	"fmt"
	"math"

	"github.com/pare-dev/pare/internal/par"
	"github.com/pare-dev/pare/internal/storage"
)

// fidelity is what two quantized files of one model differ in.
type fidelity struct {
	same            bool
	differ, tensors int
	mine, other     float64 // root of the mean squared error of the tensors that differ, against the source
}

// band is how much of a tensor is held at once.
const band = 1 << 22 // numbers

// compareFiles compares the weights of two files, and where they are not the same bytes both with the source.
func compareFiles(ctx context.Context, threads int, source, mine, other string) (f fidelity, err error) {
	var files [3]*ggufFile
	for i, path := range []string{source, mine, other} {
		if files[i], err = openGGUF(path); err != nil {
			return f, err
		}
		defer files[i].Close()
	}
	if a, b := len(files[1].Tensors), len(files[2].Tensors); a != b {
		return f, fmt.Errorf("%d and %d tensors", a, b)
	}
	var mineSum, otherSum, count float64
	for _, t := range files[0].Tensors {
		f.tensors++
		equal := false
		if equal, err = sameTensor(files[1], files[2], t.Name); err != nil {
			return f, err
		}
		if equal {
			continue
		}
		f.differ++
		n := 1
		for _, d := range t.Shape {
			n *= d
		}
		count += float64(n)
		for at := 0; at < n; at += band {
			var x [3][]float32
			for i, file := range files {
				if x[i], err = numbersOf(ctx, threads, file, t.Name, at, min(n, at+band)); err != nil {
					return f, err
				}
			}
			mineSum += squares(x[0], x[1])
			otherSum += squares(x[0], x[2])
		}
	}
	f.same = f.differ == 0
	f.mine, f.other = math.Sqrt(mineSum/max(count, 1)), math.Sqrt(otherSum/max(count, 1))
	return f, nil
}

func sameTensor(a, b *ggufFile, name string) (bool, error) {
	x, ok := a.Tensor(name)
	y, found := b.Tensor(name)
	if !ok || !found {
		return false, fmt.Errorf("tensor %q is not in both files", name)
	}
	if x.Type != y.Type || x.Size != y.Size {
		return false, nil
	}
	p, q := make([]byte, min(x.Size, 1<<24)), make([]byte, min(x.Size, 1<<24))
	for at := int64(0); at < x.Size; at += int64(len(p)) {
		n := min(int64(len(p)), x.Size-at)
		if _, err := a.data.ReadAt(p[:n], x.Offset+at); err != nil {
			return false, err
		}
		if _, err := b.data.ReadAt(q[:n], y.Offset+at); err != nil {
			return false, err
		}
		if !bytes.Equal(p[:n], q[:n]) {
			return false, nil
		}
	}
	return true, nil
}

// numbersOf decodes the numbers [lo,hi) of a tensor; both are multiples of a block or the tensor's end.
func numbersOf(ctx context.Context, threads int, f *ggufFile, name string, lo, hi int) ([]float32, error) {
	t, ok := f.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("tensor %q is missing", name)
	}
	info, ok := storage.ByGGML(t.Type)
	if !ok {
		return nil, fmt.Errorf("tensor %q: type %d cannot be decoded", name, t.Type)
	}
	raw := make([]byte, (hi-lo)/info.BlockElems*info.BlockBytes)
	if _, err := f.data.ReadAt(raw, t.Offset+int64(lo/info.BlockElems*info.BlockBytes)); err != nil {
		return nil, err
	}
	out := make([]float32, hi-lo)
	err := par.Range(ctx, threads, len(out), 1<<16, func(_, a, b int) error {
		info.Decode(out[a:b], raw[a/info.BlockElems*info.BlockBytes:b/info.BlockElems*info.BlockBytes])
		return nil
	})
	return out, err
}

func squares(a, b []float32) float64 {
	s := 0.0
	for i, v := range a {
		d := float64(v) - float64(b[i])
		s += d * d
	}
	return s
}
